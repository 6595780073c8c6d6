"""The networks of instance types, as EC2 describes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from runctl.aws.errors import translated
from runctl.model.type_network import TypeNetwork


def describe_networks(client: Any, instance_types: Sequence[str]) -> dict[str, TypeNetwork]:
    """Return the network of each type that EC2 knows in this region.

    By filter, because one unknown type would fail the whole call. The answer does not change.
    Throttling is retried inside, then raises TransientError.
    """
    if not instance_types:
        return {}
    filters = [{"Name": "instance-type", "Values": list(instance_types)}]
    pages = client.get_paginator("describe_instance_types").paginate(Filters=filters)
    with translated():
        return {
            described["InstanceType"]: _network(described)
            for page in pages
            for described in page["InstanceTypes"]
        }


def _network(described: Mapping[str, Any]) -> TypeNetwork:
    network = described.get("NetworkInfo", {})
    strategies = described.get("PlacementGroupInfo", {}).get("SupportedStrategies", ())
    return TypeNetwork(
        cards=network.get("MaximumNetworkCards", 1),
        has_efa=network.get("EfaSupported", False),
        can_cluster="cluster" in strategies,
    )
