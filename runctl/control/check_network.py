"""The check of a run with several nodes against the networks of its instance types."""

from runctl.control.ports.services import Services
from runctl.model.request import RunRequest
from runctl.policy.networks import problem_with_networks


def check_network(services: Services, request: RunRequest) -> str:
    """Return which types cannot be nodes, with the reason; empty for a run with one node.

    A type that EC2 does not know is left to the launch. Raises TransientError when throttled.
    """
    if not request.gang.is_gang:
        return ""
    return problem_with_networks(services.fleet.network_of(request.resources.instance_types))
