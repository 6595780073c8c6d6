"""Checkpoints through S3: stored once, restored as they were, and never trusted blindly."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from urllib3 import HTTPResponse

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.clients import Clients, Connection
from runctl.checkpoint import stored_parts
from runctl.checkpoint.candidates import PREVIOUS
from runctl.checkpoint.chunks import CHUNK_BYTES
from runctl.checkpoint.pinning import pin
from runctl.checkpoint.restore import Restorer
from runctl.checkpoint.retention import remove_old_checkpoints
from runctl.checkpoint.settling import ChangedError, Snapshot, scan_folder
from runctl.checkpoint.upload import Uploader
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Part
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError, RefusedError
from tests.agent.faulty import Front
from tests.agent.machine import Cloud


class Folder:
    """A checkpoint folder with everything needed to save and restore it."""

    def __init__(self, cloud: Cloud, place: Path) -> None:
        self.cloud = cloud
        self.path = place / "checkpoint"
        self.path.mkdir(parents=True)
        self.place = place
        self.store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
        self.uploader = Uploader(self.store)
        self.chain: list[str] = []

    def save(self, step: int) -> str:
        view = pin(self.path, scan_folder(self.path), self.place / "pins")
        uploaded = self.uploader.upload(
            Snapshot(view, tuple(view)), self.place / "pins", superseded=threading.Event()
        )
        self.new_bytes = uploaded.new_bytes
        self.manifest = Manifest(
            run_id="run-1",
            step=step,
            attempt=1,
            taken_at="now",
            entries=uploaded.entries,
            metadata={PREVIOUS: list(self.chain)},
        )
        key = self.store.put_manifest(self.manifest)
        self.chain.insert(0, key)
        return key

    def restore(self, key: str, name: str = "restored") -> Path:
        restorer = Restorer(self.store, self.place / "incoming")
        target = self.place / name
        restorer.put_in_place(restorer.fetch(key).manifest, target)
        return target

    def parts(self) -> list[str]:
        return self.cloud.keys("runs/run-1/checkpoints/parts/")


@pytest.fixture
def folder(cloud: Cloud, tmp_path: Path) -> Any:
    return Folder(cloud, tmp_path / "machine")


def described(path: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for name, seen in scan_folder(path).items():
        content = (path / name).read_bytes() if seen.kind == "file" else seen.target
        found[name] = (seen.kind, seen.mode, seen.mtime_ns, content)
    return found


def test_folder_is_restored_exactly(folder: Folder) -> None:
    path = folder.path
    (path / "deep/er").mkdir(parents=True)
    (path / "empty").mkdir(mode=0o700)
    (path / "deep/er/model.bin").write_bytes(os.urandom(CHUNK_BYTES + 5))
    (path / "deep/er/model.bin").chmod(0o600)
    (path / "nothing").touch()
    (path / "twin").write_bytes(b"same")
    (path / "other-twin").write_bytes(b"same")
    (path / "latest").symlink_to("deep/er/model.bin")
    (path / "dangling").symlink_to("/nowhere")
    os.link(path / "deep/er/model.bin", path / "best.bin")
    os.utime(path / "twin", ns=(1_000_000_001, 1_234_567_891_123_456_789))
    os.utime(path / "deep", ns=(1, 999_999_999_000_000_007))
    before = described(path)
    restored = folder.restore(folder.save(1))
    assert described(restored) == before
    assert (restored / "best.bin").stat().st_ino == (restored / "deep/er/model.bin").stat().st_ino


def test_sparse_file_is_restored_and_its_holes_are_stored_as_one_part(folder: Folder) -> None:
    with (folder.path / "sparse.bin").open("wb") as stream:
        stream.truncate(4 * CHUNK_BYTES)
        stream.seek(CHUNK_BYTES + 5)
        stream.write(b"weights")
    before = described(folder.path)
    restored = folder.restore(folder.save(1))
    assert len(folder.parts()) == 2
    assert described(restored) == before


def test_many_small_files_are_restored(folder: Folder) -> None:
    for number in range(300):
        (folder.path / f"{number % 7}").mkdir(exist_ok=True)
        (folder.path / f"{number % 7}/{number}").write_bytes(b"%d" % number)
    before = described(folder.path)
    restored = folder.restore(folder.save(1))
    assert len(folder.parts()) == 1
    assert described(restored) == before


def test_restore_empties_the_folder_first(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    key = folder.save(1)
    target = folder.place / "restored"
    (target / "stray").mkdir(parents=True)
    (target / ".hidden").touch()
    assert set(described(folder.restore(key))) == {"a"}


def read_from_now_on(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of what is read from the files of a snapshot."""
    read: list[bytes] = []
    real = os.preadv

    def note(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = real(descriptor, buffers, offset)
        read.append(bytes(buffers[0][:count]))
        return count

    monkeypatch.setattr(os, "preadv", note)
    return read


def test_unchanged_parts_are_stored_once_and_unchanged_files_are_not_read_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "large.bin").write_bytes(os.urandom(2 * CHUNK_BYTES))
    (folder.path / "small.bin").write_bytes(b"first")
    folder.save(1)
    assert folder.new_bytes == 2 * CHUNK_BYTES + 5
    (folder.path / "small.bin").write_bytes(b"second")
    read = read_from_now_on(monkeypatch)
    folder.save(2)
    assert folder.new_bytes == 6
    assert read == [b"second"]


def test_only_the_changed_part_of_a_large_file_is_sent(folder: Folder) -> None:
    path = folder.path / "large.bin"
    path.write_bytes(os.urandom(3 * CHUNK_BYTES))
    folder.save(1)
    with path.open("r+b") as stream:
        stream.seek(CHUNK_BYTES + 1)
        stream.write(b"changed")
    folder.save(2)
    assert folder.new_bytes == CHUNK_BYTES


def test_another_uploader_finds_parts_of_an_unfinished_save(folder: Folder) -> None:
    (folder.path / "large.bin").write_bytes(os.urandom(2 * CHUNK_BYTES))
    folder.save(1)
    folder.uploader = Uploader(folder.store)
    folder.save(2)
    assert folder.new_bytes == 0


def test_save_checks_the_parts_that_it_reuses_and_stores_missing_ones_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "a").write_bytes(b"1")
    folder.save(1)
    damage(folder, hashlib.sha256(b"1").hexdigest(), None)
    monkeypatch.setattr(stored_parts, "RECHECK_AFTER", timedelta(0))
    key = folder.save(2)
    assert folder.new_bytes == 1
    assert (folder.restore(key) / "a").read_bytes() == b"1"


def test_file_that_changes_while_being_read_is_not_saved(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.path / "model.bin"
    path.write_bytes(b"a" * 100)
    real = os.preadv

    def read_and_change(*arguments: Any) -> int:
        count = real(*arguments)
        path.write_bytes(b"b" * 100)
        os.utime(path, ns=(1, 1))
        return count

    monkeypatch.setattr(os, "preadv", read_and_change)
    with pytest.raises(ChangedError, match=r"model\.bin"):
        folder.save(1)
    assert folder.store.manifest_keys() == []


def test_file_that_changes_between_hash_and_upload_is_not_saved(
    folder: Folder, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = CHUNK_BYTES // 2
    path = folder.path / "model.bin"
    path.write_bytes(b"a" * size)
    times = path.stat()
    real = os.preadv
    read = 0

    def change_after_the_first_reading(*arguments: Any) -> int:
        nonlocal read
        count = real(*arguments)
        read += count
        if read == size:
            path.write_bytes(b"b" * size)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return count

    monkeypatch.setattr(os, "preadv", change_after_the_first_reading)
    front = Front(endpoint)
    try:
        connection = Connection(
            region="us-east-1", endpoint_url=front.url, access_key="a", secret_key="b"
        )
        store = CheckpointStore(
            Clients(connection).get("s3"), bucket=folder.cloud.name, run_id="run-1"
        )
        folder.uploader = Uploader(store)
        with pytest.raises(ChangedError, match=r"model\.bin was written to"):
            folder.save(1)
    finally:
        front.close()
    assert folder.parts() == []


def test_pinned_file_survives_its_removal(folder: Folder) -> None:
    (folder.path / "epoch-1.bin").write_bytes(b"weights")
    view = pin(folder.path, scan_folder(folder.path), folder.place / "pins")
    (folder.path / "epoch-1.bin").unlink()
    uploaded = folder.uploader.upload(
        Snapshot(view, tuple(view)), folder.place / "pins", superseded=threading.Event()
    )
    assert [entry.path for entry in uploaded.entries] == ["epoch-1.bin"]


def test_second_checkpoint_of_a_step_is_its_next_revision(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    first = folder.save(5)
    (folder.path / "a").write_bytes(b"2")
    second = folder.save(5)
    assert first != second
    assert sorted([first, second]) == [first, second]
    assert folder.store.put_manifest(folder.manifest) == second
    assert (folder.restore(first) / "a").read_bytes() == b"1"


def damage(folder: Folder, part: str, body: bytes | None) -> None:
    key = identity.part_key("run-1", part)
    if body is None:
        folder.cloud.clients["s3"].delete_object(Bucket=folder.cloud.name, Key=key)
    else:
        folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=key, Body=body)


@pytest.mark.parametrize("body", [None, b"other bytes", b""])
def test_restore_walks_back_from_a_damaged_checkpoint(folder: Folder, body: bytes | None) -> None:
    for step in (1, 2, 3):
        (folder.path / "a").write_bytes(b"%d" % step)
        key = folder.save(step)
    damage(folder, hashlib.sha256(b"3").hexdigest(), body)
    assert (folder.restore(key) / "a").read_bytes() == b"2"


@pytest.mark.parametrize("is_newest", [True, False])
def test_restore_never_walks_back_over_a_checkpoint_of_a_newer_runctl(
    folder: Folder, is_newest: bool
) -> None:
    for step in (1, 2, 3):
        (folder.path / "a").write_bytes(b"%d" % step)
        key = folder.save(step)
    newer = key if is_newest else folder.chain[1]
    document = {**json.loads(folder.cloud.read(newer)), "version": 99}
    client = folder.cloud.clients["s3"]
    client.put_object(Bucket=folder.cloud.name, Key=newer, Body=json.dumps(document))
    damage(folder, hashlib.sha256(b"3").hexdigest(), None)
    with pytest.raises(NewerCheckpointError, match="version 99"):
        folder.restore(key)


def answer_403(folder: Folder, operation: str) -> Any:
    """Let S3 refuse one of the store's operations, as it does without a permission."""
    client = folder.cloud.clients["s3"]
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def refuse(**_: Any) -> AWSResponse:
        raw = HTTPResponse(
            body=io.BytesIO(b"" if operation == "HeadObject" else body), preload_content=False
        )
        return AWSResponse("http://127.0.0.1", 403, HeadersDict(), raw)

    event = f"before-send.s3.{operation}"
    client.meta.events.register(event, refuse)
    return lambda: client.meta.events.unregister(event, refuse)


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("GetObject", "s3:GetObject"),
        ("PutObject", "s3:PutObject"),
    ],
)
def test_missing_permission_is_reported_with_key_and_action_and_is_not_damage(
    folder: Folder, operation: str, action: str
) -> None:
    for step in (1, 2):
        (folder.path / "a").write_bytes(b"%d" % step)
        key = folder.save(step)
    (folder.path / "a").write_bytes(b"3")
    ask = {
        "GetObject": lambda: folder.restore(key),
        "PutObject": lambda: folder.save(3),
    }
    permit = answer_403(folder, operation)
    try:
        with pytest.raises(RefusedError, match=f"{action} on runs/run-1/checkpoints/.*Denied"):
            ask[operation]()
    finally:
        permit()
    assert (folder.restore(key) / "a").read_bytes() == b"2"


def test_a_part_whose_head_is_refused_is_uploaded(folder: Folder) -> None:
    """For a session that may not list the bucket, that is the answer for a missing part."""
    permit = answer_403(folder, "HeadObject")
    try:
        (folder.path / "a").write_bytes(b"1")
        key = folder.save(1)
    finally:
        permit()
    assert (folder.restore(key) / "a").read_bytes() == b"1"


def test_body_is_hashed_once_and_its_checksum_is_signed(folder: Folder) -> None:
    sent: dict[str, Any] = {}
    connection = Connection(
        region="us-east-1", endpoint_url=folder.cloud.endpoint, access_key="a", secret_key="b"
    )
    client = Clients(connection).get("s3")
    store = CheckpointStore(client, bucket=folder.cloud.name, run_id="run-1")

    def look_on(request: Any, **_: Any) -> None:
        sent[request.url] = request

    client.meta.events.register("before-send.s3.PutObject", look_on)
    store.put_part(Part(sha256=hashlib.sha256(b"1").hexdigest(), size_bytes=1), [b"1"])
    store.put_manifest(Manifest(run_id="run-1", step=1, attempt=1, taken_at="now", entries=()))
    assert len(sent) == 2
    for request in sent.values():
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        assert "UNSIGNED-PAYLOAD" in headers["x-amz-content-sha256"]
        assert "x-amz-checksum-sha256" in headers["authorization"]


def test_restore_walks_back_from_a_manifest_that_cannot_be_read(folder: Folder) -> None:
    for step in (1, 2):
        (folder.path / "a").write_bytes(b"%d" % step)
        key = folder.save(step)
    folder.cloud.clients["s3"].put_object(Bucket=folder.cloud.name, Key=key, Body=b"{")
    assert (folder.restore(key) / "a").read_bytes() == b"1"


def test_absence_of_any_whole_checkpoint_is_reported(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    key = folder.save(1)
    damage(folder, hashlib.sha256(b"1").hexdigest(), None)
    with pytest.raises(DamagedCheckpointError, match="no whole checkpoint is left"):
        folder.restore(key)


def test_only_what_is_missing_from_an_earlier_fetch_is_fetched(folder: Folder) -> None:
    (folder.path / "kept.bin").write_bytes(os.urandom(CHUNK_BYTES))
    (folder.path / "step.bin").write_bytes(b"1")
    first = folder.save(1)
    (folder.path / "step.bin").write_bytes(b"2")
    second = folder.save(2)
    restorer = Restorer(folder.store, folder.place / "incoming")
    restorer.fetch(first)
    for key in folder.parts():  # what has been fetched must not be requested again
        if not key.endswith(hashlib.sha256(b"2").hexdigest()):
            folder.cloud.clients["s3"].delete_object(Bucket=folder.cloud.name, Key=key)
    fetched = restorer.fetch(second)
    restorer.put_in_place(fetched.manifest, folder.place / "restored")
    assert described(folder.place / "restored") == described(folder.path)


def test_manifest_with_a_path_outside_the_folder_is_refused(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    folder.save(1)
    entry = folder.manifest.entries[0]
    evil = Manifest(
        run_id="run-1",
        step=2,
        attempt=1,
        taken_at="now",
        entries=(type(entry)(**{**entry.__dict__, "path": "../outside"}),),
    )
    key = folder.store.put_manifest(evil)
    with pytest.raises(DamagedCheckpointError, match="outside"):
        folder.store.get_manifest(key)
    restored = folder.restore(key)  # of the previous checkpoint
    assert set(described(restored)) == {"a"}


def test_name_that_is_not_utf8_is_restored_exactly(folder: Folder) -> None:
    name = os.fsdecode(b"w\xe9ights.bin")  # a lone surrogate, which JSON keeps escaped
    (folder.path / name).write_bytes(b"1")
    (folder.path / "link").symlink_to(name)
    restored = folder.restore(folder.save(1))
    assert sorted(path.name for path in restored.iterdir()) == ["link", name]
    assert described(restored) == described(folder.path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": "2", "entries": []}',
        b'{"version": 1, "entries": null}',
        b'{"version": 1, "entries": [{}]}',
        b'{"version": 1, "entries": [{"path": "a", "parts": 3}]}',
        b'{"version": 1, "entries": [], "run_id": "r"}',
    ],
)
def test_invalid_manifest_counts_as_damaged(text: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match="the manifest cannot be read"):
        Manifest.from_json(text)


def test_retention_keeps_the_last_checkpoints_and_every_part_they_need(folder: Folder) -> None:
    (folder.path / "shared").write_bytes(b"shared")
    for step in range(1, 5):
        (folder.path / "own").write_bytes(b"%d" % step)
        folder.save(step)
    # The bundle of the first save holds the shared file, so it stays, with the file of step 1.
    removed = remove_old_checkpoints(folder.store, folder.chain[:2], folder.manifest, attempt=1)
    assert sorted(folder.store.manifest_keys()) == sorted(folder.chain[:2])
    assert removed == {hashlib.sha256(text).hexdigest() for text in (b"2",)}
    for key in folder.chain[:2]:
        assert (folder.restore(key) / "shared").read_bytes() == b"shared"


def test_retention_keeps_what_another_run_has_pinned(folder: Folder) -> None:
    for step in range(1, 5):
        (folder.path / "own").write_bytes(b"%d" % step)
        folder.save(step)
    newest, pinned = folder.chain[0], folder.chain[2]
    remove_old_checkpoints(folder.store, [newest, pinned], folder.manifest, attempt=1)
    assert set(folder.store.manifest_keys()) == {newest, pinned}
    assert (folder.restore(pinned) / "own").read_bytes() == b"2"


def test_retention_leaves_a_later_attempts_checkpoints_alone(folder: Folder) -> None:
    (folder.path / "a").write_bytes(b"1")
    key = folder.save(1)
    later = folder.store.put_manifest(
        Manifest(run_id="run-1", step=0, attempt=2, taken_at="now", entries=())
    )
    remove_old_checkpoints(folder.store, [key], folder.manifest, attempt=1)
    assert set(folder.store.manifest_keys()) == {key, later}
