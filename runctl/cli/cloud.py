"""The deployment that a command talks to: on AWS, or on the local cloud."""

from __future__ import annotations

from runctl.aws.clients import AnyClients, Clients, Connection
from runctl.aws.deployment import Deployment, read_deployment
from runctl.aws.services import AwsServices
from runctl.model.identity import DEFAULT_DEPLOYMENT

# The interval between two polls: on AWS, which throttles some calls, and on the local cloud.
POLL_SECONDS = 2.0
POLL_SECONDS_NEAR = 0.3


class Cloud(AwsServices):
    """The services of the deployment that a command talks to; `is_near`: polling costs nothing."""

    def __init__(
        self, clients: AnyClients, deployment: Deployment, *, is_near: bool = False
    ) -> None:
        super().__init__(clients, deployment)
        self.is_near = is_near

    @property
    def pause(self) -> float:
        """The seconds to wait between two polls."""
        return POLL_SECONDS_NEAR if self.is_near else POLL_SECONDS


def connect(
    *, local: bool, profile: str = "", region: str = "", name: str = DEFAULT_DEPLOYMENT
) -> Cloud:
    """Return the deployment; raises NotFoundError when the account has none of that name."""
    if local:
        # The local cloud runs on Linux only.
        from runctl.cli.endpoint import find_local_cloud

        endpoint = find_local_cloud()
        connection = Connection(
            region=endpoint.region,
            endpoint_url=endpoint.url,
            access_key=endpoint.keys.access_key_id,
            secret_key=endpoint.keys.secret_access_key,
        )
    else:
        connection = Connection(profile=profile, region=region)
    clients = Clients(connection)
    deployment = read_deployment(clients.get("ssm"), name=name)
    return Cloud(clients, deployment, is_near=local)
