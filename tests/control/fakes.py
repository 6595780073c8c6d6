"""The ports in memory: a world small enough to be explored in every order."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from runctl.model.build_context import BuildContext
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError, RefusedError, RequestError
from runctl.model.identity import manifest_prefix
from runctl.model.image import FoundImage, StoredImage
from runctl.model.image_build import BuildPlace, EndedBuild
from runctl.model.image_reference import ImageReference
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.object_checksums import Checksum
from runctl.model.secret_references import SecretReference
from runctl.model.shard import PlanHeader
from runctl.policy.session_policy import Place
from tests.control.fake_fleet import FakeFleet, FakePrices, FakeQuotas
from tests.control.memory_groups import MemoryGroups
from tests.control.memory_ledger import MemoryLedger

START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class FakeClock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def advance(self, by: timedelta) -> None:
        self.time += by


class FakeCommands:
    def __init__(self, fleet: FakeFleet) -> None:
        self._fleet = fleet
        self.sent: list[tuple[str, str]] = []
        self.deadlines: list[datetime | None] = []
        self.started: list[tuple[str, str, int]] = []
        self.refusal = ""
        self.unreachable: set[str] = set()

    def send(self, instance_id: str, action: str, *, deadline: datetime | None = None) -> bool:
        machine = self._fleet.machines.get(instance_id)
        if machine is None or not machine.is_live or instance_id in self.unreachable:
            return False
        self.sent.append((instance_id, action))
        self.deadlines.append(deadline)
        return True

    def start(self, instance_id: str, *, run_id: str, attempt: int) -> bool:
        if self.refusal:
            raise RefusedError(self.refusal)
        if instance_id in self.unreachable:
            return False
        self.started.append((instance_id, run_id, attempt))
        return True


class FakeWorkflow:
    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.reports: dict[str, Mapping[str, object]] = {}
        self.running: set[str] = set()
        self.ended: dict[str, str] = {}

    def report(self, token: str, document: Mapping[str, object]) -> bool:
        if token not in self.valid:
            return False
        self.valid.discard(token)
        self.reports[token] = document
        return True

    def is_running(self, execution_arn: str) -> bool:
        return execution_arn in self.running

    def stop_run(self, execution_arn: str, *, cause: str) -> None:
        if execution_arn in self.running:
            self.running.discard(execution_arn)
            self.ended[execution_arn] = "ABORTED"

    def status_of(self, execution_arn: str) -> str:
        return "RUNNING" if execution_arn in self.running else self.ended.get(execution_arn, "")


class FakeObjects:
    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.contexts: dict[str, BuildContext] = {}
        self.sizes: dict[str, int] = {}

    def read_context(self, uri: str, *, texts: Collection[str]) -> BuildContext:
        if uri not in self.contexts:
            raise RequestError(self.problems.get(uri, f"{uri} is not a readable archive"))
        return self.contexts[uri]

    def problem_with(self, uri: str) -> str | None:
        return self.problems.get(uri)

    def problem_with_bucket(self, bucket: str) -> str | None:
        return self.problems.get(f"s3://{bucket}/")

    def problem_with_target(self, uri: str) -> str | None:
        return self.problem_with_bucket(uri.removeprefix("s3://").partition("/")[0])

    def problem_with_writing(self, uri: str) -> str | None:
        return self.problems.get(uri)

    def size_of(self, uri: str) -> int:
        return self.sizes.get(uri, 0)

    def uri(self, key: str) -> str:
        return f"s3://bucket/{key}"


class FakeInputs:
    """Objects by bucket and key, with their sizes; those in `refused` may be listed only."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[str, str], int] = {}
        self.refused: set[tuple[str, str]] = set()

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        for (bucket, key), size in sorted(self.sizes.items()):
            is_selected = key.startswith(source.key) if source.is_prefix else key == source.key
            if bucket == source.bucket and is_selected:
                yield StoredObject(key, size, '"etag"')

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        if (source.bucket, found.key) in self.refused:
            raise RequestError(f"s3://{source.bucket}/{found.key} may not be read")
        return Checksum()


class FakeCheckpoints:
    """The manifests of one run."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self._manifests = manifests

    def manifest_keys(self) -> list[str]:
        return sorted(self._manifests, reverse=True)

    def get_manifest(self, key: str) -> Manifest:
        if key not in self._manifests:
            raise DamagedCheckpointError(f"{key} is missing")
        return self._manifests[key]


class FakeProcessingJobs:
    """Plans by job, the claims of outputs, and the outputs that cannot be used, with the reason."""

    def __init__(self) -> None:
        self.plans: dict[str, tuple[PlanHeader, list[str]]] = {}
        self.claims: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.joined: list[tuple[str, list[int]]] = []
        self.failed = 0

    def put_plan(self, header: PlanHeader, lines: Iterable[str]) -> PlanHeader:
        return self.plans.setdefault(header.run_id, (header, list(lines)))[0]

    def find_plan(self, job: str) -> PlanHeader | None:
        return self.plans[job][0] if job in self.plans else None

    def join_index(self, header: PlanHeader, first_shards: Sequence[int]) -> tuple[int, int]:
        self.joined.append((header.run_id, list(first_shards)))
        return header.shards - self.failed, self.failed

    def problem_with_output(self, uri: str) -> str:
        return self.problems.get(uri, "")

    def claim_output(self, uri: str, *, job: str, started_at: datetime) -> str:
        held = self.claims.setdefault(uri, job)
        return "" if held == job else f"{uri} holds data already (the results of the run {held})"


class FakeSecrets:
    """Secrets that exist, apart from those with a problem."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def problem_with(self, reference: SecretReference) -> str | None:
        return self.problems.get(str(reference))


class FakeImages:
    """A registry with the images that a test puts there, by tag or reference."""

    def __init__(self) -> None:
        self.place = BuildPlace(
            repository="registry/runctl-images",
            cache_repository="registry/runctl-cache",
            projects={"linux/amd64": "build-amd64", "linux/arm64": "build-arm64"},
        )
        self.built: dict[str, FoundImage] = {}
        self.others: dict[str, FoundImage] = {}
        self.kept: list[StoredImage] = []

    def is_here(self, reference: ImageReference) -> bool:
        return reference.host == "registry:5000"

    def find_built(self, tag: str) -> FoundImage | None:
        return self.built.get(tag)

    def find(self, reference: ImageReference) -> FoundImage:
        if str(reference) not in self.others:
            raise RequestError(f"{reference} does not exist; push it first, or correct it")
        return self.others[str(reference)]

    def stored(self) -> list[StoredImage]:
        return self.kept

    def delete(self, digests: Sequence[str]) -> list[str]:
        self.kept = [image for image in self.kept if image.digest not in digests]
        return []


class FakeBuilds:
    def __init__(self) -> None:
        self.ended: dict[str, EndedBuild] = {}

    def find(self, build_id: str) -> EndedBuild | None:
        return self.ended.get(build_id)


class FakeNotices:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    def publish(self, *, subject: str, body: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append((subject, body))

    @property
    def subjects(self) -> list[str]:
        return [subject for subject, _ in self.sent]


@dataclass(kw_only=True)
class World:
    """Everything that a control function may use, in memory."""

    clock: FakeClock = field(default_factory=FakeClock)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    zones: Sequence[str] = ("us-east-1a",)

    def __post_init__(self) -> None:
        self.groups = MemoryGroups(self.ledger)
        self.fleet = FakeFleet(self.clock, zones=self.zones)
        self.quotas = FakeQuotas()
        self.prices = FakePrices()
        self.commands = FakeCommands(self.fleet)
        self.workflow = FakeWorkflow()
        self.objects = FakeObjects()
        self.inputs = FakeInputs()
        self.processing_jobs = FakeProcessingJobs()
        self.notices = FakeNotices()
        self.images = FakeImages()
        self.secrets = FakeSecrets()
        self.builds = FakeBuilds()
        self.log_group = "/runctl/trainer"
        self.place = Place(bucket="bucket", region="us-east-1", account="123456789012")
        self.manifests: dict[str, Manifest] = {}

    def checkpoints(self, run_id: str) -> "FakeCheckpoints":
        prefix = manifest_prefix(run_id)
        return FakeCheckpoints(
            {key: found for key, found in self.manifests.items() if key.startswith(prefix)}
        )
