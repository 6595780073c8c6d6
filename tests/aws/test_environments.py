"""The store of environments: objects are written once, and what they say is verified."""

import hashlib
from datetime import date

import pytest

from runctl.aws.environments import EnvironmentStore, RunGeneration
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import DamagedCheckpointError
from runctl.model.stored_environment import StoredEnvironment
from tests.moto_server import serving, using_bucket

FINGERPRINT = "f" * 64
CONTENT = b"import torch"
BUCKET = "here"
RUN = RunGeneration(run_id="run-1")


def part_of(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def manifest_of(content: bytes) -> Manifest:
    entry = Entry(
        path="lib/a.py", kind="file", mode=0o644, mtime_ns=0, size_bytes=len(content),
        parts=(part_of(content),),
    )  # fmt: skip
    return Manifest(run_id="", step=None, attempt=1, taken_at="now", entries=(entry,))


@pytest.fixture(scope="module")
def endpoint():
    with serving() as url:
        yield url


@pytest.fixture
def aws():
    """Use moto as a server: parts are sent from buffers, which it cannot read in this process."""


@pytest.fixture
def client(endpoint):
    with using_bucket(endpoint, BUCKET) as made:
        yield made


@pytest.fixture
def store(client):
    return EnvironmentStore(client, bucket=BUCKET)


def test_an_area_has_environments_of_its_own(store):
    own = store.of_area("run-1")
    own.put_part(part_of(CONTENT), [CONTENT])
    digest = own.put_manifest(FINGERPRINT, manifest_of(CONTENT))
    assert own.make_current(FINGERPRINT, StoredEnvironment(manifest=digest))
    assert own.record_use_by(RUN, FINGERPRINT, digest) == digest
    own.note_use(FINGERPRINT, date(2030, 1, 1))
    assert own.current(FINGERPRINT).manifest == digest
    assert own.has_part(part_of(CONTENT))
    assert read(own, part_of(CONTENT)) == CONTENT
    for other in (store, store.of_area("run-2"), store.of_area("run")):
        assert other.current(FINGERPRINT) is None
        assert other.used_by(RUN, FINGERPRINT) is None
        assert not other.has_part(part_of(CONTENT))
        with pytest.raises(DamagedCheckpointError):
            other.get_manifest(FINGERPRINT, digest)


def read(store: EnvironmentStore, part: Part) -> bytes:
    found = bytearray(part.size_bytes)

    def write(offset, chunk):
        found[offset : offset + len(chunk)] = chunk

    store.get_part(part, write)
    return bytes(found)


def test_environment_is_read_back_as_it_was_stored(store):
    manifest = manifest_of(CONTENT)
    store.put_part(part_of(CONTENT), [CONTENT])
    digest = store.put_manifest(FINGERPRINT, manifest)
    stored = StoredEnvironment(manifest=digest, size_bytes=12, packages=(("torch", "2.9"),))
    assert store.current(FINGERPRINT) is None
    assert store.make_current(FINGERPRINT, stored)
    assert store.current(FINGERPRINT) == stored
    assert store.get_manifest(FINGERPRINT, digest) == manifest
    assert read(store, part_of(CONTENT)) == CONTENT
    assert [part.sha256 for part in store.parts()] == [part_of(CONTENT).sha256]


def test_every_object_is_written_with_the_condition_that_there_is_none(store, client):
    conditions = []
    client.meta.events.register(
        "before-call.s3.PutObject",
        lambda params, **_: conditions.append(params["headers"].get("If-None-Match")),
    )
    store.put_part(part_of(CONTENT), [CONTENT])
    digest = store.put_manifest(FINGERPRINT, manifest_of(CONTENT))
    store.make_current(FINGERPRINT, StoredEnvironment(manifest=digest))
    store.note_use(FINGERPRINT, date(2026, 11, 29))
    store.record_use_by(RUN, FINGERPRINT, digest)
    assert conditions == ["*"] * 5


def test_nothing_that_is_stored_is_replaced(store, client):
    other = "0" * 64
    key = identity.ENVIRONMENT_PARTS + part_of(CONTENT).sha256
    client.put_object(Bucket=BUCKET, Key=key, Body=b"planted by another instance")
    store.put_part(part_of(CONTENT), [CONTENT])
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read().startswith(b"planted")
    digest = store.put_manifest(FINGERPRINT, manifest_of(CONTENT))
    assert store.put_manifest(FINGERPRINT, manifest_of(CONTENT)) == digest
    assert store.make_current(FINGERPRINT, StoredEnvironment(manifest=digest))
    assert not store.make_current(FINGERPRINT, StoredEnvironment(manifest=other))
    assert store.record_use_by(RUN, FINGERPRINT, digest) == digest
    assert store.record_use_by(RUN, FINGERPRINT, other) == digest
    assert store.used_by(RUN, FINGERPRINT) == digest
    assert store.used_by(RunGeneration(run_id="run-1", generation=1), FINGERPRINT) is None


def test_part_with_other_bytes_is_refused(store, client):
    key = identity.ENVIRONMENT_PARTS + part_of(CONTENT).sha256
    client.put_object(Bucket=BUCKET, Key=key, Body=CONTENT.replace(b"torch", b"virus"))
    with pytest.raises(DamagedCheckpointError, match="checksum mismatch"):
        read(store, part_of(CONTENT))


def test_manifest_that_was_exchanged_is_refused(store, client):
    digest = store.put_manifest(FINGERPRINT, manifest_of(CONTENT))
    client.put_object(
        Bucket=BUCKET,
        Key=identity.environment_manifest_key(FINGERPRINT, digest),
        Body=manifest_of(b"import virus").as_json(),
    )
    with pytest.raises(DamagedCheckpointError, match="does not have the digest"):
        store.get_manifest(FINGERPRINT, digest)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"manifest": "../x"}', b'{"manifest": 7}', b"[" * 100_000]
)
def test_marker_that_names_no_manifest_is_refused(store, client, text):
    key = identity.current_environment_key(FINGERPRINT)
    client.put_object(Bucket=BUCKET, Key=key, Body=text)
    with pytest.raises(DamagedCheckpointError):
        store.current(FINGERPRINT)


def test_marker_of_a_newer_version_is_read():
    text = b'{"manifest": "%s", "packages": [["a", "1"]], "new": {"x": 1}}' % (b"a" * 64)
    found = StoredEnvironment.from_json(text)
    assert found == StoredEnvironment(manifest="a" * 64, packages=(("a", "1"),))
    assert StoredEnvironment.from_json(found.as_json()) == found
