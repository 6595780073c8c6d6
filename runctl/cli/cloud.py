"""The deployment that a command talks to: on AWS, or on the local cloud."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from runctl.model.errors import NotFoundError, RefusedError
from runctl.model.identity import DEFAULT_DEPLOYMENT

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.aws.clients import Clients
    from runctl.aws.deployment import Deployment
    from runctl.aws.fleet import Ec2Fleet
    from runctl.aws.ledger import DynamoLedger
    from runctl.aws.logs import LogReader
    from runctl.aws.objects import S3Objects
    from runctl.aws.workflow import StepFunctions
    from runctl.local.daemon import Endpoint
    from runctl.model.versions import Versions


# How often to look: on AWS, where some calls allow few a second, and on the local cloud.
POLL_SECONDS = 2.0
POLL_SECONDS_NEAR = 0.3


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Everything a command may ask of a deployment; `is_near` says that polling costs nothing.

    Each service is set up when it is first used: EC2's alone takes as long as all the others.
    """

    clients: Clients
    deployment: Deployment
    is_near: bool = False

    @property
    def pause(self) -> float:
        """How many seconds to wait between two looks."""
        return POLL_SECONDS_NEAR if self.is_near else POLL_SECONDS

    @cached_property
    def ledger(self) -> DynamoLedger:
        """The memory of runs."""
        from runctl.aws.ledger import DynamoLedger

        return DynamoLedger(self.clients.get("dynamodb"), self.deployment.table)

    @cached_property
    def workflow(self) -> StepFunctions:
        """The executions."""
        from runctl.aws.workflow import StepFunctions

        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self.deployment.state_machine_arn
        )

    @cached_property
    def objects(self) -> S3Objects:
        """The deployment's bucket."""
        from runctl.aws.objects import S3Objects

        return S3Objects(self.clients.get("s3"), bucket=self.deployment.bucket)

    def versions(self, run_id: str) -> Versions | None:
        """Return the exact versions of a run's dependencies, None before they are known."""
        from runctl.aws.versions import VersionStore

        s3 = self.clients.get("s3")
        return VersionStore(s3, bucket=self.deployment.bucket, run_id=run_id).read()

    @cached_property
    def logs(self) -> LogReader:
        """What trainers and agents said."""
        from runctl.aws.logs import LogReader

        return LogReader(self.clients.get("logs"), group=self.deployment.log_group)

    @cached_property
    def fleet(self) -> Ec2Fleet:
        """The machines, only to look: launching is for the functions."""
        from runctl.aws.fleet import Ec2Fleet
        from runctl.model.pool import MachineKind

        return Ec2Fleet(
            self.clients.get("ec2"),
            deployment=self.deployment.name,
            subnets={},
            launch_templates={},
            own_images=[kind for kind in MachineKind if kind.value in self.deployment.own_images],
        )

    def checkpoints(self, run_id: str) -> CheckpointStore:
        """Return the checkpoint store of a run."""
        from runctl.aws.checkpoints import CheckpointStore

        return CheckpointStore(self.clients.get("s3"), bucket=self.deployment.bucket, run_id=run_id)


def find_local_cloud() -> Endpoint:
    """Return the local cloud that runs, or raise NotFoundError with the cure."""
    from runctl.local import daemon
    from runctl.local.core.private import FolderNotPrivateError

    try:
        endpoint = daemon.find()
    except FolderNotPrivateError as exc:
        raise RefusedError(str(exc)) from exc
    if endpoint is None:
        raise NotFoundError(
            f"no local cloud runs in {daemon.default_home()}; start it with `runctl local up`"
        )
    return endpoint


def connect(
    *, local: bool, profile: str = "", region: str = "", name: str = DEFAULT_DEPLOYMENT
) -> Cloud:
    """Find the deployment; what it needs is imported here, since boto3 takes its time."""
    from runctl.aws.clients import Clients, Connection
    from runctl.aws.deployment import read_deployment

    if local:
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
