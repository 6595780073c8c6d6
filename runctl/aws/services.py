"""The AWS services of a deployment, as the functions, the agent and the command line use them."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from runctl.model.pool import MachineKind

# Each program uses a few of these and loads the modules of those only.
if TYPE_CHECKING:
    from runctl.aws.blobs import Blobs
    from runctl.aws.builds import CodeBuilds
    from runctl.aws.caller_identity import CallerIdentities
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.aws.clients import AnyClients
    from runctl.aws.commands import SsmCommands
    from runctl.aws.deployment import Deployment
    from runctl.aws.environment_catalog import EnvironmentCatalog
    from runctl.aws.environments import EnvironmentStore
    from runctl.aws.fleet import Ec2Fleet
    from runctl.aws.group_ledger import DynamoGroupLedger
    from runctl.aws.images import EcrImages
    from runctl.aws.inputs import InputStore
    from runctl.aws.instance_roles import InstanceRoles
    from runctl.aws.instances import ExistingInstances
    from runctl.aws.ledger import DynamoLedger
    from runctl.aws.logs import LogReader, LogWriter
    from runctl.aws.notices import SnsNotices
    from runctl.aws.objects import S3Objects
    from runctl.aws.outputs import OutputStore
    from runctl.aws.prices import Ec2Prices
    from runctl.aws.processing_jobs import ProcessingJobs
    from runctl.aws.quotas import Ec2Quotas
    from runctl.aws.run_data import RunData
    from runctl.aws.run_sessions import RunSessions
    from runctl.aws.secret_values import SecretValues
    from runctl.aws.sessions import PortSessions
    from runctl.aws.shards import ShardStore
    from runctl.aws.trial_ledger import DynamoTrialLedger
    from runctl.aws.versions import VersionStore
    from runctl.aws.workflow import StepFunctions
    from runctl.policy.session_policy import Place


class Clock(Protocol):
    """The source of the time."""

    def now(self) -> datetime:
        """Return the aware current instant, in UTC."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return the aware current instant, in UTC."""
        return datetime.now(timezone.utc)


class AwsServices:
    """The adapters of one deployment, each created when it is first used.

    Implements `runctl.control.ports.Services`. A program may know only a part of its deployment:
    LookupError for a service that needs another part.
    """

    def __init__(
        self, clients: AnyClients, deployment: Deployment, *, clock: Clock | None = None
    ) -> None:
        self.clients = clients
        self.deployment = deployment
        self.clock: Clock = clock or SystemClock()

    @cached_property
    def ledger(self) -> DynamoLedger:
        """The ledger of runs."""
        from runctl.aws.ledger import DynamoLedger

        return DynamoLedger(self.clients.get("dynamodb"), self._known("table"))

    @cached_property
    def groups(self) -> DynamoGroupLedger:
        """The groups of runs, and their warm instances."""
        from runctl.aws.group_ledger import DynamoGroupLedger

        return DynamoGroupLedger(self.clients.get("dynamodb"), self._known("table"))

    @cached_property
    def trials(self) -> DynamoTrialLedger:
        """The trials of sweeps."""
        from runctl.aws.trial_ledger import DynamoTrialLedger

        return DynamoTrialLedger(self.clients.get("dynamodb"), self._known("table"))

    @property
    def judge_function(self) -> str:
        """The name of the function that judges trials."""
        return self._known("judge_function")

    @cached_property
    def fleet(self) -> Ec2Fleet:
        """The instances of this deployment, and no others in the account."""
        from runctl.aws.fleet import Ec2Fleet
        from runctl.aws.fleet_requests import GangResources, LaunchTemplate
        from runctl.model.deployment_limits import DeploymentLimits
        from runctl.model.root_volume import RootVolume

        deployment = self.deployment

        def gang_templates(suffix: str = "") -> dict[MachineKind, LaunchTemplate]:
            return {
                kind: LaunchTemplate(template_id=template_id, version="$Latest")
                for kind in MachineKind
                if (template_id := deployment.gang_templates.get(f"{kind.value}{suffix}"))
            }

        return Ec2Fleet(
            self.clients.get("ec2"),
            deployment=self._known("name"),
            subnets=deployment.subnets or {},
            # A newer deployment may have kinds of machines that this version does not know.
            launch_templates={
                kind: LaunchTemplate(
                    template_id=deployment.launch_templates[kind.value],
                    version=deployment.template_versions.get(kind.value, "$Latest"),
                )
                for kind in MachineKind
                if kind.value in deployment.launch_templates
            },
            gang=GangResources(
                templates=gang_templates(),
                efa_templates=gang_templates("_efa"),
                placement_groups=deployment.placement_groups,
            ),
            limits=DeploymentLimits.from_document(deployment.limits),
            security_group=deployment.security_group,
            root_volumes={
                kind: volume
                for kind in MachineKind
                if (volume := RootVolume.from_document(deployment.root_volumes.get(kind.value, {})))
            },
            own_images=[kind for kind in MachineKind if kind.value in deployment.own_images],
        )

    @cached_property
    def existing_instances(self) -> ExistingInstances:
        """The instances that outlive a run."""
        from runctl.aws.instances import ExistingInstances

        return ExistingInstances(ec2=self.clients.get("ec2"), ssm=self.clients.get("ssm"))

    @cached_property
    def caller_arn(self) -> str:
        """The ARN of the caller of AWS; every caller may ask for its own."""
        from runctl.aws.errors import translated

        with translated():
            return str(self.clients.get("sts").get_caller_identity()["Arn"])

    @cached_property
    def quotas(self) -> Ec2Quotas:
        """The account's quotas, and the sizes of instance types."""
        from runctl.aws.quotas import Ec2Quotas

        return Ec2Quotas(self.clients.get("service-quotas"), self.clients.get("ec2"))

    @cached_property
    def prices(self) -> Ec2Prices:
        """The prices of capacity pools."""
        from runctl.aws.prices import Ec2Prices

        return Ec2Prices(self.clients.get("ec2"))

    @cached_property
    def sessions(self) -> PortSessions:
        """Sessions that forward a port of an instance."""
        from runctl.aws.sessions import PortSessions

        return PortSessions(self.clients.get("ssm"))

    @cached_property
    def commands(self) -> SsmCommands:
        """Commands to the agents."""
        from runctl.aws.commands import SsmCommands

        return SsmCommands(
            self.clients.get("ssm"),
            document=self.deployment.command_document,
            start_document=self.deployment.start_document,
        )

    @cached_property
    def workflow(self) -> StepFunctions:
        """The executions; a token or an ARN identifies its own state machine."""
        from runctl.aws.workflow import StepFunctions

        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self.deployment.state_machine_arn
        )

    @cached_property
    def sweep_workflow(self) -> StepFunctions:
        """The executions of sweeps."""
        from runctl.aws.workflow import StepFunctions

        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self._known("sweep_machine_arn")
        )

    @cached_property
    def processing_workflow(self) -> StepFunctions:
        """The executions of processing jobs on several instances."""
        from runctl.aws.workflow import StepFunctions

        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self._known("process_machine_arn")
        )

    @cached_property
    def objects(self) -> S3Objects:
        """The objects that requests refer to."""
        from runctl.aws.objects import S3Objects

        return S3Objects(self.clients.get("s3"), bucket=self._known("bucket"))

    @cached_property
    def inputs(self) -> InputStore:
        """The objects that runs read, in any bucket."""
        from runctl.aws.inputs import InputStore

        return InputStore(self.clients.get("s3"))

    @cached_property
    def processing_jobs(self) -> ProcessingJobs:
        """The plans and outputs of processing jobs."""
        from runctl.aws.processing_jobs import ProcessingJobs

        return ProcessingJobs(self.clients.get("s3"), bucket=self._known("bucket"))

    def shards(self, job: str) -> ShardStore:
        """Return the store of the shards of a processing job."""
        from runctl.aws.shards import ShardStore

        return ShardStore(self.clients.get("s3"), bucket=self._known("bucket"), job=job)

    @cached_property
    def blobs(self) -> Blobs:
        """The objects of the deployment's bucket."""
        from runctl.aws.blobs import Blobs

        return Blobs(self.clients.get("s3"), bucket=self._known("bucket"))

    @cached_property
    def images(self) -> EcrImages:
        """The images of this deployment, and others in its region."""
        from runctl.aws.images import EcrImages
        from runctl.model.image_build import BuildPlace

        deployment = self.deployment
        place = BuildPlace(
            repository=deployment.image_repository,
            cache_repository=deployment.cache_repository,
            projects=deployment.build_projects,
            mirror=deployment.image_mirror,
        )
        return EcrImages(self.clients.get("ecr"), place=place)

    @cached_property
    def builds(self) -> CodeBuilds:
        """The builds of images."""
        from runctl.aws.builds import CodeBuilds

        return CodeBuilds(self.clients.get("codebuild"), self.clients.get("logs"))

    @property
    def log_group(self) -> str:
        """The log group of trainers, agents and builds."""
        return self._known("log_group")

    @cached_property
    def notices(self) -> SnsNotices:
        """The topic for people."""
        from runctl.aws.notices import SnsNotices

        return SnsNotices(self.clients.get("sns"), topic_arn=self._known("topic_arn"))

    @cached_property
    def logs(self) -> LogReader:
        """The logs of trainers and agents, to read."""
        from runctl.aws.logs import LogReader

        return LogReader(self.clients.get("logs"), group=self._known("log_group"))

    @cached_property
    def log_writer(self) -> LogWriter:
        """The logs of trainers and agents, to write."""
        from runctl.aws.logs import LogWriter

        return LogWriter(self.clients.get("logs"), group=self._known("log_group"))

    @cached_property
    def secrets(self) -> SecretValues:
        """The secrets that requests refer to."""
        from runctl.aws.secret_values import SecretValues

        return SecretValues(self.clients.get, region=self._known("region"))

    def checkpoints(self, run_id: str, *, rank: int = 0) -> CheckpointStore:
        """Return the checkpoint store of a run, in which the node of that rank saves."""
        from runctl.aws.checkpoints import CheckpointStore

        return CheckpointStore(
            self.clients.get("s3"), bucket=self._known("bucket"), run_id=run_id, rank=rank
        )

    @cached_property
    def environments(self) -> EnvironmentStore:
        """The environments that all runs share."""
        from runctl.aws.environments import EnvironmentStore

        return EnvironmentStore(self.clients.get("s3"), bucket=self._known("bucket"))

    @cached_property
    def environment_catalog(self) -> EnvironmentCatalog:
        """What is stored of environments, and its removal."""
        from runctl.aws.environment_catalog import EnvironmentCatalog

        return EnvironmentCatalog(self.clients.get("s3"), bucket=self._known("bucket"))

    @cached_property
    def run_data(self) -> RunData:
        """Everything that is stored of runs, to remove it."""
        from runctl.aws.run_data import RunData

        return RunData(
            self.clients.get,
            bucket=self._known("bucket"),
            table=self._known("table"),
            log_group=self._known("log_group"),
        )

    def versions(self, run_id: str, *, generation: int = 0) -> VersionStore:
        """Return the store of the exact versions of a run's dependencies."""
        from runctl.aws.versions import VersionStore

        return VersionStore(
            self.clients.get("s3"),
            bucket=self._known("bucket"),
            run_id=run_id,
            generation=generation,
        )

    def outputs(self, run_id: str) -> OutputStore:
        """Return the store of a run's outputs."""
        from runctl.aws.outputs import OutputStore

        return OutputStore(self.clients.get("s3"), bucket=self._known("bucket"), run_id=run_id)

    def outputs_at(self, uri: str, run_id: str) -> OutputStore:
        """Return the store of a run's outputs below a prefix that its request names."""
        from runctl.aws.outputs import OutputStore

        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return OutputStore(self.clients.get("s3"), bucket=bucket, run_id=run_id, prefix=prefix)

    @cached_property
    def identities(self) -> CallerIdentities:
        """The proofs of callers."""
        from runctl.aws.caller_identity import CallerIdentities, regional_endpoint

        return CallerIdentities(
            endpoint=self.deployment.endpoint.rstrip("/")
            or regional_endpoint(self._known("region")),
            deployment=self._known("name"),
            now=self.clock.now,
        )

    @cached_property
    def instance_roles(self) -> InstanceRoles:
        """The roles of instances."""
        from runctl.aws.instance_roles import InstanceRoles

        return InstanceRoles(self.clients.get, role_arn=self._known("instance_role"))

    @cached_property
    def run_sessions(self) -> RunSessions:
        """The sessions for runs and for their trainers."""
        from runctl.aws.run_sessions import RunSessions

        return RunSessions(
            self.clients.get("sts"),
            run_role=self._known("run_role"),
            trainer_role=self._known("trainer_role"),
            place=self.place,
            table=self._known("table"),
        )

    @property
    def place(self) -> Place:
        """Where the resources are that the policies of sessions name."""
        from runctl.policy.session_policy import Place

        # The function that opens sessions knows the one ARN, those that prepare runs the other.
        arn = self.deployment.run_role or self._known("state_machine_arn")
        _, partition, _, _, account, *_ = arn.split(":")
        return Place(
            bucket=self._known("bucket"),
            region=self._known("region"),
            account=account,
            partition=partition,
        )

    def _known(self, field: str) -> str:
        value: str = getattr(self.deployment, field)
        if not value:
            raise LookupError(f"this program does not know its deployment's {field}")
        return value
