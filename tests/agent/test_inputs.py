"""Staging of inputs from a real S3 server: in parallel, verified, and only what changed."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig

from runctl.agent.prepare import inputs as staging
from runctl.agent.prepare.inputs import InputStager
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.waiting import EndedEarlyError
from runctl.aws.inputs import InputStore
from runctl.model.errors import RequestError, TransientError
from runctl.model.input_sources import MAX_OBJECTS, InputSource, StoredObject
from runctl.model.object_checksums import Checksum
from runctl.model.staging import Staging
from tests.agent.conftest import make_client

MIB = 1024 * 1024


class CountingStore(InputStore):
    """Records what is read; `before` is called before each read."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.read: list[tuple[str, int]] = []
        self.before: Callable[[str], None] = lambda _: None

    def open(
        self, source: InputSource, found: StoredObject, *, offset: int, size_bytes: int
    ) -> Any:
        self.read.append((found.key, offset))
        self.before(found.key)
        return super().open(source, found, offset=offset, size_bytes=size_bytes)

    @property
    def keys(self) -> list[str]:
        return sorted({key for key, _ in self.read})


class Bucket:
    def __init__(self, client: Any) -> None:
        self.client = client
        self.name = f"data-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=self.name)

    def put(self, key: str, body: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **options)

    def upload_in_parts(self, key: str, path: Path) -> None:
        config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
        self.client.upload_file(str(path), self.name, key, Config=config)

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Bucket]:
    client = make_client("s3", endpoint)
    yield Bucket(client)
    client.close()


@pytest.fixture
def store(bucket: Bucket) -> CountingStore:
    return CountingStore(bucket.client)


@pytest.fixture
def progress() -> Progress:
    return Progress()


@pytest.fixture
def stager(store: CountingStore, progress: Progress, tmp_path: Path) -> InputStager:
    return new_stager(store, tmp_path, progress)


def new_stager(
    store: InputStore, state: Path, progress: Progress, check: Callable[[], None] = lambda: None
) -> InputStager:
    folder = state / "input"
    return InputStager(store, folder=folder, state=state, progress=progress, check=check)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_prefixes_and_objects_become_folders_of_their_names(
    bucket: Bucket, stager: InputStager, progress: Progress, tmp_path: Path
) -> None:
    bucket.put("cifar/train/1.bin", b"one")
    bucket.put("cifar/train/", b"")
    bucket.put("cifar/empty.txt", b"")
    bucket.put("models/resnet.pt", b"weights", ChecksumAlgorithm="SHA256")
    stager.stage({"data": bucket.uri("cifar/"), "base-model": bucket.uri("models/resnet.pt")})
    assert contents(tmp_path / "input") == {
        "data/train/1.bin": b"one",
        "data/empty.txt": b"",
        "base-model/resnet.pt": b"weights",
    }
    # A program in a container may have another user.
    assert (tmp_path / "input/data/train/1.bin").stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "incoming-inputs").exists()
    assert progress.snapshot().staging == Staging(done_bytes=10, total_bytes=10)


def test_more_objects_than_a_page_of_the_listing_are_staged(
    bucket: Bucket, stager: InputStager, tmp_path: Path
) -> None:
    for number in range(1005):
        bucket.put(f"many/{number:04d}", b"%d" % number)
    stager.stage({"many": bucket.uri("many/")})
    staged = contents(tmp_path / "input")
    assert staged == {f"many/{number:04d}": b"%d" % number for number in range(1005)}


@pytest.mark.parametrize("is_in_parts", [True, False])
def test_a_large_object_is_read_in_ranges_and_verified(
    bucket: Bucket,
    store: CountingStore,
    stager: InputStager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_in_parts: bool,
) -> None:
    monkeypatch.setattr(staging, "RANGE_BYTES", 4 * MIB)
    monkeypatch.setattr(staging, "LARGE_BYTES", 8 * MIB)
    content = os.urandom(12 * MIB + 5)
    large = tmp_path / "large"
    large.write_bytes(content)
    if is_in_parts:
        bucket.upload_in_parts("large", large)
    else:
        bucket.put("large", content)
    stager.stage({"data": bucket.uri("large")})
    assert contents(tmp_path / "input") == {"data/large": content}
    size = 5 * MIB if is_in_parts else 4 * MIB
    assert sorted(offset for _, offset in store.read) == list(range(0, len(content), size))


def test_only_what_changed_is_read_again_on_the_same_machine(
    bucket: Bucket, store: CountingStore, progress: Progress, tmp_path: Path
) -> None:
    for name in ("same", "new-content", "edited-here", "deleted-here", "gone", "folder/x"):
        bucket.put(f"d/{name}", f"first {name}".encode())
    inputs = {"d": bucket.uri("d/")}
    new_stager(store, tmp_path, progress).stage(inputs)
    bucket.put("d/new-content", b"other content")
    bucket.client.delete_object(Bucket=bucket.name, Key="d/gone")
    bucket.client.delete_object(Bucket=bucket.name, Key="d/folder/x")
    bucket.put("d/folder", b"a file now")
    folder = tmp_path / "input/d"
    (folder / "edited-here").write_bytes(b"EDITED")
    (folder / "deleted-here").unlink()
    (folder / "made-here").mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    store.read.clear()
    new_stager(store, tmp_path, progress).stage(inputs)
    assert store.keys == ["d/deleted-here", "d/edited-here", "d/folder", "d/new-content"]
    assert contents(tmp_path / "input") == {
        "d/same": b"first same",
        "d/new-content": b"other content",
        "d/edited-here": b"first edited-here",
        "d/deleted-here": b"first deleted-here",
        "d/folder": b"a file now",
    }
    assert not (folder / "made-here").exists()
    assert not (folder / "link").is_symlink()
    store.read.clear()
    new_stager(store, tmp_path, progress).stage(inputs)
    assert store.read == []
    new_stager(store, tmp_path, progress).stage({})
    assert list((tmp_path / "input").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"not JSON\n", b'["a"]\n[1, 2, 3, 4, 5]\n\xff\n'])
def test_a_record_that_cannot_be_read_only_costs_another_read(
    bucket: Bucket, store: CountingStore, progress: Progress, tmp_path: Path, damage: bytes
) -> None:
    bucket.put("d/a", b"content")
    new_stager(store, tmp_path, progress).stage({"d": bucket.uri("d/")})
    (tmp_path / "inputs.jsonl").write_bytes(damage)
    new_stager(store, tmp_path, progress).stage({"d": bucket.uri("d/")})
    assert contents(tmp_path / "input") == {"d/a": b"content"}
    assert len(store.read) == 2


def test_an_interrupted_staging_keeps_what_is_complete(
    bucket: Bucket, store: CountingStore, progress: Progress, tmp_path: Path
) -> None:
    for number in range(40):
        bucket.put(f"d/{number:02d}", b"%d" % number)
    read_some = threading.Event()
    store.before = lambda key: read_some.set() if key == "d/20" else None

    def check() -> None:
        if read_some.is_set():
            raise EndedEarlyError

    with pytest.raises(EndedEarlyError):
        new_stager(store, tmp_path, progress, check).stage({"d": bucket.uri("d/")})
    kept = set(contents(tmp_path / "input"))
    assert len(kept) < 40
    recorded = {
        json.loads(line)[0] for line in (tmp_path / "inputs.jsonl").read_text().splitlines()
    }
    assert recorded <= kept
    store.read.clear()
    store.before = lambda _: None
    new_stager(store, tmp_path, progress).stage({"d": bucket.uri("d/")})
    assert len(contents(tmp_path / "input")) == 40
    # A file that was put in place a moment before the end may lack its record.
    assert not recorded & set(store.keys)


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_an_object_that_changes_while_it_is_staged_ends_the_attempt_with_one_message(
    bucket: Bucket, store: CountingStore, stager: InputStager, change: str
) -> None:
    bucket.put("d/a", b"first")

    def change_it(key: str) -> None:
        if change == "replaced":
            bucket.put(key, b"other")
        else:
            bucket.client.delete_object(Bucket=bucket.name, Key=key)

    store.before = change_it
    with pytest.raises(RequestError, match="was changed or deleted while the inputs were staged"):
        stager.stage({"d": bucket.uri("d/")})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("typo/", "there are no objects below s3://"),
        ("marked/", "there are no objects below s3://"),
        ("folder", "end the URI with / for all objects below a prefix"),
        ("unsafe/", "cannot be staged"),
    ],
)
def test_inputs_that_cannot_be_staged_are_named_with_the_remedy(
    bucket: Bucket, stager: InputStager, key: str, message: str
) -> None:
    bucket.put("marked/", b"")
    bucket.put("folder/a", b"a")
    bucket.put("unsafe/a/../../b", b"b")
    with pytest.raises(RequestError, match=message):
        stager.stage({"data": bucket.uri(key)})


def test_a_missing_bucket_is_named(stager: InputStager) -> None:
    with pytest.raises(RequestError, match="there is no bucket no-such-bucket-here"):
        stager.stage({"data": "s3://no-such-bucket-here/a/"})


class WrongChecksums(CountingStore):
    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        super().find_checksum(source, found)
        return Checksum(algorithm="SHA256", value="bm90IGl0")


def test_content_that_does_not_match_is_read_again_and_then_refused(
    bucket: Bucket, progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LARGE_BYTES", 3)
    bucket.put("d/a", b"content")
    stager = new_stager(WrongChecksums(bucket.client), tmp_path, progress)
    for _ in range(2):
        with pytest.raises(TransientError, match="does not match its checksum"):
            stager.stage({"d": bucket.uri("d/")})
    with pytest.raises(RequestError, match="upload it again"):
        stager.stage({"d": bucket.uri("d/")})
    assert contents(tmp_path / "input") == {}


def test_a_connection_that_breaks_is_tried_again(
    bucket: Bucket,
    store: CountingStore,
    stager: InputStager,
    progress: Progress,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(staging, "RETRY_SECONDS", 0.0)
    bucket.put("d/a", b"content")
    breaks = iter([True, True])

    def break_off(_key: str) -> None:
        if next(breaks, False):
            raise TransientError("the connection broke")

    store.before = break_off
    stager.stage({"d": bucket.uri("d/")})
    assert contents(tmp_path / "input") == {"d/a": b"content"}
    assert progress.snapshot().staging == Staging(done_bytes=7, total_bytes=7)


def test_the_agent_needs_little_memory_for_as_many_objects_as_are_allowed(
    progress: Progress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 5_000  # what they need grows with their number

    class ManyObjects(InputStore):
        def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
            for number in range(count):
                key = f"{source.key}class-{number // 1000:03}/image-{number:09}.jpeg"
                yield StoredObject(key, 1, f'"{number:032x}"')

    folder = tmp_path / "input"
    store = ManyObjects(None)
    stager = new_stager(store, tmp_path, progress)
    monkeypatch.setattr(stager, "_fetch_ranges", lambda jobs, _staged: next(jobs))
    (tmp_path / "inputs.jsonl").write_text(
        "".join(
            json.dumps(
                [
                    f"data/class-{number // 1000:03}/image-{number:09}.jpeg",
                    f"s3://bucket/data/class-{number // 1000:03}/image-{number:09}.jpeg",
                    f'"{number:032x}"',
                    1,
                    number,
                ]
            )
            + "\n"
            for number in range(count)
        )
    )
    folder.mkdir()
    tracemalloc.start()
    try:
        stager.stage({"data": "s3://bucket/data/"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Of the agent's 128 MiB, about half is what it needs without inputs.
    assert peak * MAX_OBJECTS / count < 40 * MIB
