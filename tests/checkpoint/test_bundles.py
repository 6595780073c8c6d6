"""Bundles: the same files make the same ones, none is sent twice, and each file is verified."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients, Connection
from runctl.checkpoint import stored_parts, upload
from runctl.checkpoint.bundles import (
    BUNDLE_BYTES,
    REPACKED_BYTES,
    SPARE_BUNDLES,
    PinnedFile,
    pack,
    to_repack,
)
from runctl.checkpoint.known_files import SMALL_BYTES, Stored
from runctl.checkpoint.restore import Restorer
from runctl.checkpoint.retention import remove_old_checkpoints
from runctl.checkpoint.settling import ChangedError, FileState, scan_folder
from runctl.checkpoint.unpacking import Unpacking
from runctl.checkpoint.upload import Uploader
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import DamagedCheckpointError, TransientError
from runctl.policy.garbage import find_garbage
from tests.agent.faulty import Front
from tests.agent.machine import Cloud
from tests.checkpoint.test_checkpoints import Folder, damage, described, read_from_now_on

SIZES = [0, 1, 200, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1]


@pytest.fixture
def folder(cloud: Cloud, tmp_path: Path) -> Folder:
    return Folder(cloud, tmp_path / "machine")


def write(path: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def many(count: int, size: int = 200) -> dict[str, bytes]:
    return {f"{number % 7}/{number:04d}": os.urandom(size) for number in range(count)}


def part_of(folder: Folder, path: str) -> str:
    (entry,) = (entry for entry in folder.manifest.entries if entry.path == path)
    return entry.parts[0].sha256


def test_only_the_changed_file_among_many_is_read_and_sent(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.path, many(500))
    folder.save(1)
    assert len(folder.parts()) == 1
    write(folder.path, {"0/0007": b"changed"})
    read = read_from_now_on(monkeypatch)
    key = folder.save(2)
    assert read == [b"changed"]
    assert folder.new_bytes == 7
    assert len(folder.parts()) == 2
    assert described(folder.restore(key)) == described(folder.path)


def test_files_rewritten_with_the_same_bytes_are_not_sent(folder: Folder) -> None:
    files = many(100)
    write(folder.path, files)
    folder.save(1)
    write(folder.path, {**files, "0/0007": b"of another length"})
    key = folder.save(2)
    assert folder.new_bytes == len(b"of another length")
    assert described(folder.restore(key)) == described(folder.path)


def test_a_bundle_holds_equal_content_once(folder: Folder) -> None:
    same = os.urandom(1000)
    write(folder.path, {**{f"copy-{number}": same for number in range(50)}, "other": b"other"})
    key = folder.save(1)
    assert folder.new_bytes == len(same) + len(b"other")
    assert described(folder.restore(key)) == described(folder.path)


def test_the_same_folder_makes_the_same_bundles(cloud: Cloud, tmp_path: Path) -> None:
    files = many(300, size=20_000)
    folders = [Folder(cloud, tmp_path / name) for name in ("one", "other")]
    for folder, order in zip(folders, (sorted(files), sorted(files, reverse=True)), strict=True):
        write(folder.path, {name: files[name] for name in order})
        folder.save(1)
    assert folders[0].manifest.digests == folders[1].manifest.digests
    assert len(folders[0].manifest.digests) > 3
    assert folders[1].new_bytes == 0


def test_large_and_empty_files_and_hard_links_are_in_no_bundle(folder: Folder) -> None:
    write(folder.path, {"a": b"a", "b": b"b", "empty": b"", "large": bytes(SMALL_BYTES + 1)})
    os.link(folder.path / "a", folder.path / "twin")
    key = folder.save(1)
    entries = {entry.path: entry for entry in folder.manifest.entries}
    assert [entries[name].offset for name in ("a", "b", "empty", "large", "twin")] == [
        0, 1, None, None, None,
    ]  # fmt: skip
    assert entries["empty"].parts == entries["twin"].parts == ()
    restored = folder.restore(key)
    assert described(restored) == described(folder.path)
    assert (restored / "twin").stat().st_ino == (restored / "a").stat().st_ino


class Memory:
    """A store in memory, which answers immediately."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.chunks = 512 * 1024

    def parts(self) -> list[Part]:
        return [Part(sha256=key, size_bytes=len(content)) for key, content in self.contents.items()]

    def has_part(self, part: Part) -> bool:
        return part.sha256 in self.contents

    def put_part(self, part: Part, content: Any) -> None:
        body = b"".join(bytes(chunk) for chunk in content)
        assert hashlib.sha256(body).hexdigest() == part.sha256
        assert len(body) == part.size_bytes
        self.puts.append(part.sha256)
        self.contents[part.sha256] = body

    def get_part(self, part: Part, write: Any) -> None:
        body = self.contents[part.sha256]
        for start in range(0, len(body), self.chunks):
            write(start, memoryview(body)[start : start + self.chunks])

    def get_manifest(self, _key: str) -> Manifest:
        return self.manifest

    def put_manifest(self, manifest: Manifest) -> str:
        self.manifest = Manifest.from_json(manifest.as_json())
        return "newest"


class InMemory(Folder):
    """A checkpoint folder with a store in memory."""

    def __init__(self, place: Path) -> None:
        self.path = place / "checkpoint"
        self.path.mkdir(parents=True)
        self.place = place
        self.memory = self.store = Memory()  # type: ignore[assignment]
        self.uploader = Uploader(self.store)
        self.chain = []


contents = st.builds(
    lambda size, kind: random.Random(kind).randbytes(size) if size else b"",
    st.sampled_from(SIZES) | st.integers(0, 3000),
    st.integers(0, 5),
)
changes = st.dictionaries(st.integers(0, 15), contents | st.none(), max_size=10)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rounds=st.lists(changes, min_size=1, max_size=5),
    starts_anew=st.integers(0, 5),
    chunks=st.sampled_from([1000, 4096, 512 * 1024, 4 * 1024 * 1024]),
)
def test_every_folder_is_restored_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[dict[int, bytes | None]],
    starts_anew: int,
    chunks: int,
) -> None:
    folder = InMemory(tmp_path_factory.mktemp("any"))
    folder.memory.chunks = chunks
    for number, change in enumerate(rounds):
        for name, content in change.items():
            if content is None:
                (folder.path / str(name)).unlink(missing_ok=True)
            else:
                (folder.path / str(name)).write_bytes(content)
        if number == starts_anew:  # like another attempt, in the folder that it restored
            restored = folder.restore("newest", name=f"attempt-{number}") if number else folder.path
            folder.uploader = Uploader(folder.store)
            if number:
                folder.uploader.remember(scan_folder(restored), folder.memory.manifest)
        folder.save(number)
        restored = folder.restore("newest", name=f"restored-{number}")
        assert described(restored) == described(folder.path)
        assert folder.memory.manifest == folder.manifest
        assert len(folder.memory.puts) == len(set(folder.memory.puts))


def test_many_saves_leave_a_bounded_number_of_bundles(tmp_path: Path) -> None:
    folder = InMemory(tmp_path)
    files = many(500)
    live = sum(map(len, files.values()))
    write(folder.path, files)
    rng = random.Random(1)
    most = parts = 0
    for step in range(150):
        for name in rng.sample(sorted(files), 5):
            (folder.path / name).write_bytes(rng.randbytes(200))
        folder.save(step)
        used = {part for entry in folder.manifest.entries for part in entry.parts}
        most = max(most, sum(part.size_bytes for part in used))
        parts = max(parts, len(used))
    assert most <= 2 * live + BUNDLE_BYTES // 4
    assert parts <= 2 + SPARE_BUNDLES + 1
    assert described(folder.restore("newest")) == described(folder.path)


def stored(digest: str, *, size: int, at: int = 0) -> Stored:
    return Stored((Part(sha256=digest, size_bytes=size),), at, f"{digest}-{at}")


def test_a_sparse_bundle_is_repacked_and_a_full_one_is_not() -> None:
    used = [(stored("sparse", size=1000), 499), (stored("full", size=1000), 500)]
    assert to_repack(used, new_bytes=0) == {"sparse"}


def test_short_bundles_are_joined_when_there_are_many() -> None:
    used = [(stored(f"{number:03d}", size=10), 10) for number in range(SPARE_BUNDLES + 2)]
    assert to_repack(used, new_bytes=0) == set()
    used.append((stored("one more", size=10), 10))
    assert len(to_repack(used, new_bytes=0)) == SPARE_BUNDLES + 3


def test_a_save_repacks_at_most_what_it_sends_or_a_small_amount() -> None:
    size = BUNDLE_BYTES // 4
    used = [(stored(f"{number:03d}", size=BUNDLE_BYTES), size) for number in range(100)]
    assert len(to_repack(used, new_bytes=0)) == REPACKED_BYTES // size
    assert len(to_repack(used, new_bytes=2 * REPACKED_BYTES)) == 2 * REPACKED_BYTES // size


@given(sizes=st.lists(st.integers(1, SMALL_BYTES), max_size=60))
def test_bundles_hold_every_file_once_and_in_order(sizes: list[int]) -> None:
    files = [
        PinnedFile(str(number), FileState("file", 0, 0, size), is_log=False)
        for number, size in enumerate(sizes)
    ]
    bundles = list(pack(files))
    assert [file for bundle in bundles for file in bundle] == files
    assert all(
        0 < sum(file.seen.size for file in files_of_one) <= BUNDLE_BYTES for files_of_one in bundles
    )
    assert len(bundles) <= 1 + 2 * sum(sizes) // BUNDLE_BYTES


def test_a_lost_bundle_is_rebuilt_from_the_folder(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.path, many(20))
    folder.save(1)
    damage(folder, part_of(folder, "0/0007"), None)
    monkeypatch.setattr(stored_parts, "RECHECK_AFTER", timedelta(0))
    key = folder.save(2)
    assert folder.new_bytes == 20 * 200
    assert described(folder.restore(key)) == described(folder.path)


@pytest.mark.parametrize("body", [None, b"other bytes", bytes(20 * 200)])
def test_restore_walks_back_from_a_damaged_bundle(folder: Folder, body: bytes | None) -> None:
    for step in (1, 2):
        write(folder.path, many(20))
        before = described(folder.path)
        key = folder.save(step)
        if step == 1:
            first = before
    damage(folder, part_of(folder, "0/0007"), body)
    assert described(folder.restore(key)) == first


def with_offset(manifest: Manifest, path: str, offset: int) -> Manifest:
    entries = tuple(
        dataclasses.replace(entry, offset=offset) if entry.path == path else entry
        for entry in manifest.entries
    )
    return dataclasses.replace(manifest, entries=entries)


def test_a_wrong_offset_is_noticed(folder: Folder) -> None:
    write(folder.path, many(20))
    folder.save(1)
    key = folder.store.put_manifest(with_offset(folder.manifest, "0/0007", 10 * 200))
    with pytest.raises(DamagedCheckpointError, match="0/0007 is not where"):
        folder.restore(key)


@pytest.mark.parametrize("offset", [-1, 20 * 200 - 199])
def test_an_offset_outside_the_bundle_is_a_damaged_manifest(folder: Folder, offset: int) -> None:
    write(folder.path, many(20))
    folder.save(1)
    text = with_offset(folder.manifest, "0/0007", offset).as_json()
    with pytest.raises(DamagedCheckpointError, match="the manifest cannot be read"):
        Manifest.from_json(text)


def test_a_bundle_that_arrives_damaged_once_is_read_again(tmp_path: Path) -> None:
    content = os.urandom(300)
    files = []
    for number in range(3):
        digest = hashlib.sha256(content[100 * number :][:100]).hexdigest()
        entry = Entry(
            path=str(number), kind="file", mode=0, mtime_ns=0, size_bytes=100,
            offset=100 * number, sha256=digest,
        )  # fmt: skip
        files.append((str(tmp_path / str(number)), entry))
    unpacking = Unpacking(files)
    unpacking.write(0, bytes(150))
    unpacking.write(150, bytes(150))
    with pytest.raises(DamagedCheckpointError):
        unpacking.check()
    unpacking.write(0, content[:70])
    with pytest.raises(DamagedCheckpointError):
        unpacking.check()  # some files are not there yet
    unpacking.write(0, content[:150])
    unpacking.write(150, content[150:])
    unpacking.check()
    assert b"".join((tmp_path / str(number)).read_bytes() for number in range(3)) == content


def test_a_small_file_that_changes_while_being_read_is_not_saved(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.path, many(20))
    real = os.preadv
    count = 0

    def read_and_change(*arguments: Any) -> int:
        nonlocal count
        count += 1
        if count == 8:
            write(folder.path, {"0/0007": bytes(200), "6/0013": bytes(200)})
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", read_and_change)
    with pytest.raises(ChangedError, match="was written to while it was being read"):
        folder.save(1)
    assert folder.store.manifest_keys() == []


def test_a_small_file_that_became_shorter_is_not_saved(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.path, many(20))
    real = upload.run_workers

    def shorten(*arguments: Any, **options: Any) -> None:
        os.truncate(folder.path / "0/0007", 10)
        real(*arguments, **options)

    monkeypatch.setattr(upload, "run_workers", shorten)
    with pytest.raises(ChangedError, match="0/0007 became shorter"):
        folder.save(1)


def test_a_repeated_save_reads_and_sends_only_what_is_missing(
    folder: Folder, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder.path, many(20, size=SMALL_BYTES))
    front = Front(endpoint)
    try:
        connection = Connection(
            region="us-east-1", endpoint_url=front.url, access_key="a", secret_key="b"
        )
        client = Clients(connection).get("s3")
        folder.uploader = Uploader(
            CheckpointStore(client, bucket=folder.cloud.name, run_id="run-1")
        )
        real = folder.uploader._parts.put
        puts: list[str] = []
        limit = threading.Lock()

        def put(part: Part, content: Any) -> bool:
            with limit:
                puts.append(part.sha256)
                if len(puts) == 3:
                    raise TransientError("S3 does not answer")
                return real(part, content)

        monkeypatch.setattr(folder.uploader._parts, "put", put)
        with pytest.raises(TransientError):
            folder.save(1)
        stored = set(folder.parts())
        sent = len(puts)
        key = folder.save(1)
    finally:
        front.close()
    assert len(puts) - sent == 5 - len(stored)
    assert described(folder.restore(key)) == described(folder.path)


def test_a_bundle_is_kept_while_a_kept_checkpoint_needs_one_of_its_files(folder: Folder) -> None:
    write(folder.path, many(20))
    folder.save(1)
    bundle = part_of(folder, "0/0007")
    write(folder.path, {name: b"%d" % number for number, name in enumerate(many(9))})
    key = folder.save(2)
    removed = remove_old_checkpoints(folder.store, [key], folder.manifest, attempt=1)
    assert removed == set()
    assert bundle in folder.manifest.digests
    listed = list(folder.store.parts())
    later = listed[0].stored_at + timedelta(days=9)
    needed = folder.manifest.digests
    assert find_garbage(listed, needed, has_live_attempt=False, now=later) == []
    assert described(folder.restore(key)) == described(folder.path)


def test_only_bundles_with_files_missing_from_an_earlier_fetch_are_fetched(folder: Folder) -> None:
    write(folder.path, many(20))
    first = folder.save(1)
    bundle = part_of(folder, "0/0007")
    write(folder.path, {"0/0007": b"7", "1/0001": b"1"})
    second = folder.save(2)
    restorer = Restorer(folder.store, folder.place / "incoming")
    restorer.fetch(first)
    damage(folder, bundle, None)
    restorer.put_in_place(restorer.fetch(second).manifest, folder.place / "restored")
    assert described(folder.place / "restored") == described(folder.path)


def test_a_manifest_of_version_1_is_read_and_its_small_parts_become_bundles(
    folder: Folder,
) -> None:
    count = SPARE_BUNDLES + 10
    write(folder.path, many(count))
    folder.save(1)
    entries = []
    for entry in folder.manifest.entries:
        document = {"path": entry.path, "kind": entry.kind, "mode": entry.mode}
        document |= {"mtime_ns": entry.mtime_ns, "size_bytes": entry.size_bytes, "target": ""}
        content = (folder.path / entry.path).read_bytes() if entry.kind == "file" else b""
        digest = hashlib.sha256(content).hexdigest()
        held = [{"sha256": digest, "size_bytes": len(content)}] if content else []
        if content:
            folder.store.put_part(Part(sha256=digest, size_bytes=len(content)), [content])
        entries.append({**document, "parts": held})
    old = {
        "run_id": "run-1", "step": 1, "attempt": 1, "taken_at": "now", "metadata": {},
        "version": 1, "entries": entries,
    }  # fmt: skip
    key = folder.chain[0]
    body = json.dumps(old)
    folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=key, Body=body)
    restored = folder.restore(key)
    assert described(restored) == described(folder.path)
    folder.path = restored
    manifest = folder.store.get_manifest(key)
    assert len(manifest.digests) == count
    folder.uploader = Uploader(folder.store)
    folder.uploader.remember(scan_folder(restored), manifest)
    newer = folder.save(2)
    assert folder.new_bytes == 0  # exactly the bundle of the first save
    assert len(folder.manifest.digests) == 1
    assert described(folder.restore(newer, name="newer")) == described(restored)
