"""Which instance types can be nodes of a gang."""

from collections.abc import Mapping

from runctl.model.type_network import TypeNetwork


def problem_with_networks(networks: Mapping[str, TypeNetwork]) -> str:
    """Return which types need several network interfaces, with the remedy; empty if none does.

    Their bandwidth is spread over several network cards. EC2 gives no public address to an instance
    with several interfaces, so they cannot be launched into the subnets of a deployment as others.
    """
    several = [
        f"{name} ({network.cards} network cards)"
        for name, network in networks.items()
        if network.cards > 1
    ]
    if not several:
        return ""
    return (
        f"{', '.join(several)}: a node has one network interface, which uses one card; name types "
        "with a single card (e.g. g5.48xlarge, p5.4xlarge), or remove nodes"
    )
