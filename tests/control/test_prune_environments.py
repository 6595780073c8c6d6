"""The removal of stored environments, on a real store: nothing that a run needs goes."""

import hashlib
from datetime import date, timedelta

import pytest

from runctl.aws.environment_catalog import EnvironmentCatalog
from runctl.aws.environments import RunGeneration
from runctl.control.prune_environments import prune_environments
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.outcome import RunStatus
from runctl.model.stored_environment import StoredEnvironment
from tests.control.fakes import START
from tests.control.scenes import RUN, prepared
from tests.moto_server import serving, using_bucket

BUCKET = "pruned"
A, B, C = "a" * 64, "b" * 64, "c" * 64
KEEP = timedelta(days=30)


@pytest.fixture(scope="module")
def endpoint():
    with serving() as url:
        yield url


@pytest.fixture
def client(endpoint):
    with using_bucket(endpoint, BUCKET) as made:
        yield made


class Aged(EnvironmentCatalog):
    """The catalog, in which objects whose keys contain a text are a number of days old."""

    def __init__(self, client) -> None:
        super().__init__(client, bucket=BUCKET)
        self.days: dict[str, float] = {}
        self.between = lambda: None

    def objects(self, prefix=""):
        found = super().objects(prefix)
        if not prefix:
            self.between()
        aged = []
        for each in found:
            days = next((self.days[name] for name in self.days if name in each.key), 0.0)
            aged.append(type(each)(**{**vars(each), "stored_at": START - timedelta(days=days)}))
        return aged

    def keys(self) -> list[str]:
        return [each.key for each in super().objects()]

    def names(self) -> set[str]:
        return {key.split("/")[1] for key in self.keys()}


@pytest.fixture
def world(client):
    world = prepared()
    world.environment_catalog = Aged(client)
    return world


def part_of(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def store(catalog: Aged, fingerprint: str, *contents: bytes) -> str:
    entries = []
    for content in contents:
        part = part_of(content)
        catalog.put_part(part, [content])
        entries.append(
            Entry(
                path=f"lib/{part.sha256}", kind="file", mode=0o644, mtime_ns=0,
                size_bytes=len(content), parts=(part,),
            )
        )  # fmt: skip
    manifest = Manifest(run_id="", step=None, attempt=1, taken_at="now", entries=tuple(entries))
    sha256 = catalog.put_manifest(fingerprint, manifest)
    catalog.make_current(fingerprint, StoredEnvironment(manifest=sha256))
    return sha256


@pytest.mark.parametrize(("has_ended", "is_removed"), [(True, True), (False, False)])
def test_the_environments_of_a_run_that_shares_none_go_after_its_end(world, has_ended, is_removed):
    catalog = world.environment_catalog
    own = catalog.of_area(RUN)
    store(own, A, b"of the run")
    catalog.days = {"/": 40}
    if has_ended:
        world.ledger.end_run(RUN, status=RunStatus.COMPLETED, reason="", now=START)
        world.ledger.record_notified(RUN, end=START)
    pruned = prune_environments(world, keep=KEEP)
    assert (pruned.environments, pruned.objects_removed) == (0, 3 if is_removed else 0)
    assert bool(catalog.keys()) is not is_removed


def test_an_unused_environment_goes_with_the_parts_that_no_other_one_names(world):
    catalog = world.environment_catalog
    store(catalog, A, b"shared", b"of a")
    kept = store(catalog, B, b"shared", b"of b")
    catalog.note_use(A, date(2026, 1, 1))
    catalog.days = {f"current/{B}": 3, "/": 40}
    before = catalog.keys()
    planned = prune_environments(world, keep=KEEP, is_dry_run=True)
    assert catalog.keys() == before
    pruned = prune_environments(world, keep=KEEP)
    assert pruned.removed == planned.removed == (A,)
    assert (planned.is_dry_run, planned.bytes_removed) == (True, len(b"of a"))
    assert (pruned.objects_removed, pruned.bytes_removed) == (4, len(b"of a"))
    assert sorted(catalog.keys()) == sorted(
        [
            identity.current_environment_key(B),
            identity.environment_manifest_key(B, kept),
            *(f"{identity.ENVIRONMENT_PARTS}{part_of(c).sha256}" for c in (b"shared", b"of b")),
        ]
    )
    again = prune_environments(world, keep=KEEP)
    assert (again.environments, again.removed, again.objects_removed) == (1, (), 0)


def test_what_a_live_run_recorded_stays_until_the_run_has_ended(world):
    catalog = world.environment_catalog
    sha256 = store(catalog, A, b"x")
    catalog.record_use_by(RunGeneration(run_id=RUN), A, sha256)
    catalog.days = {"/": 100}
    assert prune_environments(world, keep=KEEP).removed == ()
    world.ledger.end_run(RUN, status=RunStatus.COMPLETED, reason="", now=START)
    world.ledger.record_notified(RUN, end=START)
    assert prune_environments(world, keep=KEEP).removed == (A,)
    assert catalog.keys() == []


def test_parts_of_a_commit_in_progress_stay(world):
    catalog = world.environment_catalog
    catalog.put_part(part_of(b"new"), [b"new"])
    catalog.days = {"parts/": 2.9}
    prune_environments(world, keep=timedelta(0))
    assert len(catalog.keys()) == 1
    catalog.days = {"parts/": 3}
    prune_environments(world, keep=timedelta(0))
    assert catalog.keys() == []


def test_a_manifest_that_is_committed_while_parts_are_listed_keeps_its_parts(world):
    catalog = world.environment_catalog
    catalog.put_part(part_of(b"old"), [b"old"])
    catalog.days = {"parts/": 100}
    catalog.between = lambda: store(catalog, A, b"old")
    prune_environments(world, keep=KEEP)
    assert catalog.names() == {"current", "manifests", "parts"}


@pytest.mark.parametrize("trace", ["mark", "record"])
def test_an_environment_whose_use_begins_meanwhile_keeps_its_files(world, trace):
    catalog = world.environment_catalog
    sha256 = store(catalog, A, b"x")
    catalog.days = {"current": 40, "manifests": 40, "parts": 40}
    if trace == "mark":
        catalog.between = lambda: catalog.note_use(A, date(2026, 1, 1))
    else:
        run = RunGeneration(run_id="another")
        catalog.between = lambda: catalog.record_use_by(run, A, sha256)
    pruned = prune_environments(world, keep=KEEP)
    assert pruned.removed == ()
    assert catalog.current(A) is None  # the next run that builds it makes it current again
    assert catalog.get_manifest(A, sha256).digests == {part_of(b"x").sha256}
    assert part_of(b"x").sha256 in "".join(catalog.keys())


def test_an_environment_without_all_of_its_parts_is_no_longer_offered(world):
    catalog = world.environment_catalog
    store(catalog, A, b"x", b"y")
    whole = store(catalog, B, b"y")
    catalog.remove([f"{identity.ENVIRONMENT_PARTS}{part_of(b'x').sha256}"])
    damaged = prune_environments(world, keep=KEEP).damaged
    assert len(damaged) == 2
    assert catalog.current(A) is None
    assert catalog.current(B).manifest == whole


def test_a_planted_manifest_evicts_nothing(world, client):
    catalog = world.environment_catalog
    sha256 = store(catalog, A, b"x")
    body = b'{"version": 2, "nothing": "else"}'
    planted = identity.environment_manifest_key(A, hashlib.sha256(body).hexdigest())
    client.put_object(Bucket=BUCKET, Key=planted, Body=body)
    assert prune_environments(world, keep=KEEP).damaged == (planted,)
    assert catalog.current(A).manifest == sha256


def test_nothing_is_removed_that_only_a_newer_version_can_read(world, client):
    catalog = world.environment_catalog
    catalog.put_part(part_of(b"x"), [b"x"])
    body = b'{"version": 99}'
    key = identity.environment_manifest_key(A, hashlib.sha256(body).hexdigest())
    client.put_object(Bucket=BUCKET, Key=key, Body=body)
    catalog.days = {"parts/": 100}
    pruned = prune_environments(world, keep=KEEP)
    assert (pruned.damaged, pruned.objects_removed) == ((), 0)
    assert len(catalog.keys()) == 2


def test_archives_of_the_version_before_are_removed(world, client):
    client.put_object(Bucket=BUCKET, Key=f"environments/{A}.tar.gz", Body=b"123")
    world.environment_catalog.days = {"tar.gz": 4}
    assert prune_environments(world, keep=KEEP).bytes_removed == 3
    assert world.environment_catalog.keys() == []


@pytest.mark.parametrize("name", ["current", "manifests"])
def test_other_objects_of_the_bucket_stay(world, client, name):
    client.put_object(Bucket=BUCKET, Key=f"runs/{name}/{A}", Body=b"1")
    prune_environments(world, keep=timedelta(0))
    assert client.head_object(Bucket=BUCKET, Key=f"runs/{name}/{A}")["ContentLength"] == 1
