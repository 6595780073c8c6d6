"""The ports of the control functions; `runctl.aws` implements them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from runctl.control.group_ports import GroupLedger
from runctl.control.processing_ports import ProcessingJobs
from runctl.model.agent_ledger import AgentLedger
from runctl.model.build_context import BuildContext
from runctl.model.checkpoint import Manifest
from runctl.model.image import FoundImage, StoredImage
from runctl.model.image_build import BuildPlace, EndedBuild
from runctl.model.image_reference import ImageReference
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.node import NodeId
from runctl.model.object_checksums import Checksum
from runctl.model.outcome import Outcome, RunStatus
from runctl.model.pool import MachineKind, Pool
from runctl.model.quota import VcpuQuota
from runctl.model.root_volume import RootVolume
from runctl.model.run import Attempt, Run, Source
from runctl.model.secret_references import SecretReference
from runctl.model.stored_environment import StoredEnvironment
from runctl.policy.environments import EnvironmentObject


class Clock(Protocol):
    """The source of the time."""

    def now(self) -> datetime:
        """Return the aware current instant, in UTC."""
        ...


class Ledger(AgentLedger, Protocol):
    """The state of all runs; every move is a conditional write, every read is consistent.

    Throttling is retried inside, and then raises TransientError. Every write may be repeated with
    the same arguments: if an answer is lost, the caller repeats the call.
    """

    def create_run(self, run: Run) -> Run:
        """Put the run unless it exists; return what the ledger holds."""
        ...

    def list_runs(self, *, limit: int = 100) -> list[Run]:
        """Return the newest runs first (this one read is eventually consistent)."""
        ...

    def list_unsettled_runs(self) -> list[str]:
        """Return the ids of all runs without an end, or whose end was not announced.

        Eventually consistent.
        """
        ...

    def find_run_of_execution(self, name: str) -> str | None:
        """Return the run_id of an execution, or None when it is not ours."""
        ...

    def resume_run(
        self,
        run_id: str,
        *,
        execution: str,
        execution_arn: str,
        first_attempt: int,
        fresh_environment: bool = False,
    ) -> Run:
        """Move an ended run to a new execution and clear its end; idempotent per execution.

        With `fresh_environment` it gets the next generation of its environment.
        Raises NotFoundError for an unknown run, RequestError while another execution has it.
        """
        ...

    def continue_as_new(
        self,
        run_id: str,
        *,
        parent_arn: str,
        execution: str,
        execution_arn: str,
        first_attempt: int,
    ) -> Run:
        """Move a live run from an execution to the one it started; idempotent per execution.

        Raises RequestError unless `parent_arn` has the run, RunEndedError when it has ended.
        """
        ...

    def end_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Run:
        """Set the run's end unless it has one; return what the ledger holds.

        With `execution_arn`, only while that execution has the run: a late event of an earlier
        execution must not end what a later one continued.
        """
        ...

    def record_notified(self, run_id: str, *, end: datetime) -> None:
        """Record that the end of that instant was published, if it is still the run's end."""
        ...

    def open_attempt(
        self,
        run_id: str,
        number: int,
        *,
        launch_try: int,
        source: Source,
        now: datetime,
        count: int = 1,
    ) -> Attempt:
        """Record the source of `count` machines for a launch try, unless that try is recorded.

        Returns what the ledger holds, so that a second caller replays the request of the first.
        Raises RunEndedError when the run has ended.
        """
        ...

    def record_launch(
        self, run_id: str, number: int, *, instance_ids: Sequence[str], pool: str, now: datetime
    ) -> Attempt:
        """Store the instances of the attempt's nodes by rank, unless it has some or ended.

        For each instance its node is stored, too. Returns what the ledger holds: the caller
        terminates what it launched and does not find there. Raises RunEndedError when the run has
        ended meanwhile: the caller terminates them.
        """
        ...

    def record_existing_instance(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: NodeId | None,
        now: datetime,
    ) -> Attempt:
        """Give the attempt an existing instance, unless it has one or ended.

        Only while no attempt has the machine, or that of `instead_of` has it, which has ended: two
        runs on one machine would compete for its processor, folder and agent. Returns what the
        ledger holds; an attempt that is still launching did not get it. Raises RunEndedError when
        the run has ended meanwhile.
        """
        ...

    def record_token(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        """Give the attempt its task token and move the run's fence to it.

        A newer token for the same attempt replaces the older one. An attempt that has ended is
        returned as it is. Raises FencedError when a higher attempt has the fence, RunEndedError
        when the run has ended or another execution has it.
        """
        ...

    def end_attempt(self, run_id: str, number: int, *, outcome: Outcome, now: datetime) -> Attempt:
        """Set the attempt's outcome unless it has one; return what the ledger holds."""
        ...

    def refresh_summary(self, run_id: str) -> bool:
        """Rewrite the summary of the attempts if it differs; return whether it did.

        Every change of an attempt changes the summary with it, unless an earlier version made it.
        """
        ...

    def record_gone(self, node: NodeId) -> None:
        """Record that the instance of a node is stopped or terminated."""
        ...

    def find_instance(self, instance_id: str) -> NodeId | None:
        """Return the node on an instance, or None for an instance that is not ours."""
        ...

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        """Record that a pool refused or reclaimed a machine; the later `until` wins."""
        ...

    def cooling_pools(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, datetime]:
        """Return those of `pools` that are cooling down, each with its end."""
        ...


class Fleet(Protocol):
    """The part of EC2 that we use. Throttling is retried inside, and then raises TransientError."""

    @property
    def own_images(self) -> Set[MachineKind]:
        """The kinds of machines for which the deployment's owner provides the image."""
        ...

    def root_volumes(self) -> Mapping[MachineKind, RootVolume]:
        """Return the root volumes of the launch templates; empty in an earlier deployment."""
        ...

    def zones(self) -> tuple[str, ...]:
        """Return the availability zones that the deployment has a subnet in."""
        ...

    def build_request(
        self,
        *,
        run_id: str,
        attempt: int,
        launch_try: int,
        pools: Sequence[Pool],
        volumes: Mapping[MachineKind, RootVolume] | None = None,
        count: int = 1,
    ) -> str:
        """Return the exact CreateFleet request (JSON) for `count` instances, all or none.

        `volumes` replace the root volumes of the launch templates.
        """
        ...

    def launch(self, request: str) -> LaunchResult:
        """Send a CreateFleet request verbatim; the same request again gives the same answer.

        Raises RefusedError when nothing would ever be launched, or TransientError when the answer
        was lost. Refusals of pools, including those by quotas and by throttling, are a result.
        """
        ...

    def describe(self, instance_ids: Sequence[str]) -> list[Machine]:
        """Return the machines that EC2 knows; a missing one may be too new."""
        ...

    def statuses(self, instance_ids: Sequence[str]) -> list[MachineStatus]:
        """Return the status checks of those machines that run and that EC2 knows."""
        ...

    def find_by_run(self, run_id: str) -> list[Machine]:
        """Return the machines tagged with the run that are not shut down or shutting down."""
        ...

    def find_all(self) -> list[Machine]:
        """Return the machines of this deployment, and of no other in the account."""
        ...

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """Terminate instances, which may already be gone."""
        ...

    def find_fleets(self) -> list[InstantFleet]:
        """Return this deployment's fleets, including the deleted ones that EC2 still shows."""
        ...

    def delete_fleets(self, fleet_ids: Iterable[str]) -> dict[str, str]:
        """Delete fleets and their instances; return the reason for each that was not deleted."""
        ...


class Quotas(Protocol):
    """The account's quotas, looked up after EC2 refused a launch because of one.

    What cannot be read, for lack of a permission, the service or the quota, is omitted.
    """

    def region(self) -> str:
        """Return the region, to which each quota applies."""
        ...

    def allowed(self, quota: VcpuQuota) -> int | None:
        """Return a quota's value in vCPUs, None when it cannot be read."""
        ...

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """Return the number of vCPUs of each instance type that EC2 knows."""
        ...


class Prices(Protocol):
    """The prices of instances."""

    def current(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, Decimal]:
        """Return the current price in USD an hour of those of `pools` whose price is known."""
        ...


class Commands(Protocol):
    """Requests to the agent on an instance, over SSM."""

    def send(self, instance_id: str, action: str, *, deadline: datetime | None = None) -> bool:
        """Ask for `drain`, `checkpoint` or `stop`; False if the SSM agent is not registered.

        `deadline` is when EC2 takes the instance that is to drain, if that is known.
        """
        ...

    def start(self, instance_id: str, *, run_id: str, attempt: int, is_tagged: bool) -> bool:
        """Start the agent for an attempt on an existing instance; False when SSM does not reach it.

        `is_tagged` says that the machine has the tag by which its owner permits commands.

        May be repeated: an agent that already works on that attempt is left alone. Raises
        RefusedError, with the reason, when the tag is missing or the agent failed to start.
        """
        ...


class Workflow(Protocol):
    """Step Functions."""

    def report(self, token: str, document: Mapping[str, Any]) -> bool:
        """Complete the Train task with its report; False when the token is no longer valid."""
        ...

    def is_running(self, execution_arn: str) -> bool:
        """Whether the execution is still running."""
        ...

    def stop_run(self, execution_arn: str, *, cause: str) -> None:
        """Stop an execution unless it has already ended."""
        ...

    def status_of(self, execution_arn: str) -> str:
        """Return RUNNING, SUCCEEDED, FAILED, …; empty for an execution that is not known."""
        ...


class Objects(Protocol):
    """The part of S3 that the control functions use."""

    def read_context(self, uri: str, *, texts: Collection[str]) -> BuildContext:
        """Return what a build would see of a packed project, with the contents of some files.

        Raises RequestError for something that is not an archive.
        """
        ...

    def problem_with(self, uri: str) -> str | None:
        """Return why the agent cannot read an s3:// object, with the remedy, or None."""
        ...

    def problem_with_bucket(self, bucket: str) -> str | None:
        """Return why a bucket cannot be used from here, with the remedy, or None."""
        ...

    def problem_with_writing(self, uri: str) -> str | None:
        """Return why runs cannot write below a prefix, with the remedy, or None."""
        ...

    def size_of(self, uri: str) -> int:
        """Return the size of an s3:// object in bytes, 0 if it cannot be read."""
        ...

    def uri(self, key: str) -> str:
        """Return the s3:// URI of a key in the deployment's bucket."""
        ...


class Inputs(Protocol):
    """The objects that runs read; RequestError, with the remedy, if they cannot be read."""

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        """Yield the objects of an input in the order of their keys, markers of folders included."""
        ...

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        """Return by what the content of an object can be verified; it must be readable."""
        ...


class Images(Protocol):
    """The registry: the deployment's own repository of builds, and others in its region."""

    @property
    def place(self) -> BuildPlace:
        """Where this deployment builds images."""
        ...

    def is_here(self, reference: ImageReference) -> bool:
        """Whether this registry can look an image up."""
        ...

    def find_built(self, tag: str) -> FoundImage | None:
        """Return the image of that tag in the repository of builds, or None."""
        ...

    def find(self, reference: ImageReference) -> FoundImage:
        """Return an image; raises RequestError if it is missing or may not be read."""
        ...

    def stored(self) -> list[StoredImage]:
        """Return the images of the repository of builds."""
        ...

    def delete(self, digests: Sequence[str]) -> list[str]:
        """Delete images of the repository of builds, which may be gone; return what failed."""
        ...


class Secrets(Protocol):
    """The secrets that requests refer to, without their values."""

    def problem_with(self, reference: SecretReference) -> str | None:
        """Return why a run could not read a secret, with the remedy; None if nothing is known."""
        ...


class Builds(Protocol):
    """CodeBuild."""

    def find(self, build_id: str) -> EndedBuild | None:
        """Return a build with the last lines of its log; None for one that is not known."""
        ...


class Notices(Protocol):
    """The topic for messages about runs."""

    def publish(self, *, subject: str, body: str) -> None:
        """Send one message to all subscribers; a repeated call sends it again."""
        ...


class EnvironmentCatalog(Protocol):
    """The environments that runs share, in S3."""

    def objects(self, prefix: str = "") -> list[EnvironmentObject]:
        """Return the objects below `environments/` whose further key has a prefix, by key."""
        ...

    def current(self, fingerprint: str) -> StoredEnvironment | None:
        """Return the environment that new runs use; DamagedCheckpointError if it is unreadable."""
        ...

    def get_manifest(self, fingerprint: str, sha256: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError if it is missing or cannot be read."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is missing is fine."""
        ...


class Checkpoints(Protocol):
    """The checkpoints of one run."""

    def manifest_keys(self) -> list[str]:
        """Return the keys of all manifests, the newest save first."""
        ...

    def get_manifest(self, key: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError when it is missing or cannot be read."""
        ...


class Services(Protocol):
    """Everything a control function may use; each function uses only a few of them."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The state of all runs."""
        ...

    @property
    def groups(self) -> GroupLedger:
        """The groups of runs."""
        ...

    @property
    def fleet(self) -> Fleet:
        """EC2."""
        ...

    @property
    def quotas(self) -> Quotas:
        """Service Quotas."""
        ...

    @property
    def prices(self) -> Prices:
        """Prices of capacity pools."""
        ...

    @property
    def commands(self) -> Commands:
        """The agents."""
        ...

    @property
    def workflow(self) -> Workflow:
        """Step Functions."""
        ...

    @property
    def objects(self) -> Objects:
        """S3."""
        ...

    @property
    def inputs(self) -> Inputs:
        """The objects that runs read, in any bucket."""
        ...

    @property
    def processing_jobs(self) -> ProcessingJobs:
        """The plans and outputs of processing jobs."""
        ...

    @property
    def images(self) -> Images:
        """The registry."""
        ...

    @property
    def secrets(self) -> Secrets:
        """The secrets that requests refer to."""
        ...

    @property
    def builds(self) -> Builds:
        """The builds of images."""
        ...

    @property
    def log_group(self) -> str:
        """The log group of trainers, agents and builds."""
        ...

    @property
    def notices(self) -> Notices:
        """The topic."""
        ...

    @property
    def environment_catalog(self) -> EnvironmentCatalog:
        """The environments that runs share."""
        ...

    def checkpoints(self, run_id: str) -> Checkpoints:
        """Return the checkpoints of a run."""
        ...
