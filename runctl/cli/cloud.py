"""The deployment that a command talks to: on AWS, or on the local cloud."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients, Connection
from runctl.aws.deployment import Deployment, read_deployment
from runctl.aws.fleet import Ec2Fleet
from runctl.aws.ledger import DynamoLedger
from runctl.aws.logs import LogReader
from runctl.aws.objects import S3Objects
from runctl.aws.versions import VersionStore
from runctl.aws.workflow import StepFunctions
from runctl.model.identity import DEFAULT_DEPLOYMENT
from runctl.model.pool import MachineKind
from runctl.model.versions import Versions

# The interval between two polls: on AWS, which throttles some calls, and on the local cloud.
POLL_SECONDS = 2.0
POLL_SECONDS_NEAR = 0.3


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The services of a deployment that commands use; `is_near`: polling costs nothing.

    Each service is set up on first use: EC2's alone takes as long as all the others.
    """

    clients: Clients
    deployment: Deployment
    is_near: bool = False

    @property
    def pause(self) -> float:
        """The seconds to wait between two polls."""
        return POLL_SECONDS_NEAR if self.is_near else POLL_SECONDS

    @cached_property
    def ledger(self) -> DynamoLedger:
        """The ledger of runs."""
        return DynamoLedger(self.clients.get("dynamodb"), self.deployment.table)

    @cached_property
    def workflow(self) -> StepFunctions:
        """The executions."""
        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self.deployment.state_machine_arn
        )

    @cached_property
    def objects(self) -> S3Objects:
        """The deployment's bucket."""
        return S3Objects(self.clients.get("s3"), bucket=self.deployment.bucket)

    def versions(self, run_id: str) -> Versions | None:
        """Return the exact versions of a run's dependencies, None before they are known."""
        s3 = self.clients.get("s3")
        return VersionStore(s3, bucket=self.deployment.bucket, run_id=run_id).read()

    @cached_property
    def logs(self) -> LogReader:
        """The logs of trainers and agents."""
        return LogReader(self.clients.get("logs"), group=self.deployment.log_group)

    @cached_property
    def fleet(self) -> Ec2Fleet:
        """The instances, to describe and terminate: only the functions launch them."""
        return Ec2Fleet(
            self.clients.get("ec2"),
            deployment=self.deployment.name,
            subnets={},
            launch_templates={},
            own_images=[kind for kind in MachineKind if kind.value in self.deployment.own_images],
        )

    def checkpoints(self, run_id: str) -> CheckpointStore:
        """Return the checkpoint store of a run."""
        return CheckpointStore(self.clients.get("s3"), bucket=self.deployment.bucket, run_id=run_id)


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
    return Cloud(clients=clients, deployment=deployment, is_near=local)
