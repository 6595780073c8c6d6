"""Tests: a trainer that replaces what is in its checkpoint folder shows us nothing of others.

Another process, with the rights of the trainer, exchanges names in a tight loop while the code of
the agent, with the rights of root, scans, pins, judges, copies and uploads.
"""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.checkpoint import inspector, pinning
from runctl.checkpoint.databases import Databases
from runctl.checkpoint.folder_state import FolderState, scan_folder
from runctl.checkpoint.inspector import Inspector
from runctl.checkpoint.local_files import LocalFiles
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.pinning import link_early, pin, read_pinned
from runctl.checkpoint.settling import ChangedError, Snapshot
from runctl.model.checkpoint_entry import Entry, Part
from tests.beneath.swapping import CANARY, give_to_trainer, hide_canary, needs_root, swapped
from tests.checkpoint.test_checkpoints import Folder, folder

__all__ = ["folder"]

ROUNDS = 300
pytestmark = needs_root


class Scene:
    """A trainer's folder, the canary, and the two names that the trainer exchanges."""

    def __init__(self, place: Path, what: str) -> None:
        self.canary = hide_canary(place / "root")
        self.path = place / "state/trainer"
        (self.path / "step").mkdir(parents=True)
        (self.path / "step/shadow").write_bytes(b"weights" * 1000)
        link = self.path / "evil"
        if what == "file":
            link.symlink_to(self.canary)
            self.names = self.path / "step/shadow", link
        elif what == "folder":
            link.symlink_to(self.canary.parent)
            self.names = self.path / "step", link
        else:
            os.mkfifo(link)
            self.names = self.path / "step/shadow", link
        self.pins = place / "state/pins"
        give_to_trainer(self.path)

    @property
    def hidden(self) -> tuple[int, int]:
        """The inode that must be in no scan."""
        info = self.canary.stat()
        return info.st_dev, info.st_ino

    def pinned_bytes(self) -> list[bytes]:
        """What the pins hold, links included."""
        return [path.read_bytes() for path in self.pins.iterdir()] if self.pins.is_dir() else []


@pytest.fixture(params=["file", "folder", "pipe"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """Return a scene of each kind."""
    return Scene(tmp_path, request.param)


def _repeat(scene: Scene, work: Callable[[FolderState], object]) -> int:
    """Scan and work while names are exchanged; return how often the work was done."""
    done = 0
    with swapped(*scene.names):
        for _ in range(ROUNDS):
            found = scan_folder(scene.path)
            assert scene.hidden not in {state.inode for state in found.values()}
            assert all(CANARY.decode() not in state.target for state in found.values())
            try:
                work(found)
                done += 1
            except (ChangedError, FileNotFoundError):
                continue
    return done


def test_scan_and_pins_never_hold_the_canary(scene: Scene) -> None:
    """Whatever the two names mean at each moment."""
    read = set()

    def work(found: FolderState) -> None:
        contents: dict[tuple[int, int], bytes] = {}
        link_early(scene.path, found, list(found), scene.pins.with_name("seen"))
        held = [scene.pins.with_name("seen")]
        pinned = pin(
            scene.path, found, scene.pins,
            recently_modified=frozenset(found), held=held, contents=contents,
        )  # fmt: skip
        for path, state in pinned.items():
            if state.kind == "file":
                read.add(read_pinned(pinned, contents, scene.pins, path, 0, 100))
        assert CANARY not in scene.pinned_bytes()

    _repeat(scene, work)
    assert read <= {(b"weights" * 1000)[:100], b""}
    assert (b"weights" * 1000)[:100] in read


def test_files_read_in_place_are_those_that_were_scanned(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another file system nothing can be linked, so the pins only name the files."""

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(pinning.os, "link", refuse)
    read = set()

    def work(found: FolderState) -> None:
        pinned = pin(scene.path, found, scene.pins, recently_modified=frozenset(found))
        for path, state in pinned.items():
            if state.kind == "file":
                read.add(read_pinned(pinned, {}, scene.pins, path, 0, 100))

    _repeat(scene, work)
    assert read <= {(b"weights" * 1000)[:100], b""}


def test_formats_and_databases_are_judged_by_files_in_the_folder(scene: Scene) -> None:
    """Neither is a pipe waited for."""
    judge = Inspector(scene.path)
    texts = set()

    def work(found: FolderState) -> None:
        for path, state in found.items():
            if state.kind == "file":
                judge._texts.clear()
                texts.add(judge.text(path, state)[:7])
                judge.is_database(path)

    _repeat(scene, work)
    assert texts <= {"weights", ""}


def test_uploaded_parts_never_have_the_canary(folder: Folder, tmp_path: Path) -> None:
    """From the scan to the parts in the bucket."""
    scene = Scene(tmp_path / "scene", "folder")

    def work(found: FolderState) -> None:
        pinned = pin(scene.path, found, scene.pins)
        folder.uploader.upload(
            Snapshot(pinned, tuple(pinned)), scene.pins, superseded=threading.Event()
        )

    assert _repeat(scene, work)
    bodies = [
        folder.cloud.clients["s3"].get_object(Bucket=folder.cloud.name, Key=key)["Body"].read()
        for key in folder.cloud.keys("runs/")
    ]
    assert bodies
    assert all(CANARY not in body for body in bodies)


def test_pin_is_refused_when_a_file_is_swapped_between_scan_and_pin(tmp_path: Path) -> None:
    """Exactly between the two: the link, what it names, and another file of the trainer."""
    for what in ("file", "folder"):
        scene = Scene(tmp_path / what, what)
        found = scan_folder(scene.path)
        first, second = scene.names
        first.rename(scene.path / "aside")
        second.rename(first)
        try:
            pinned = pin(scene.path, found, scene.pins)
        except ChangedError:
            pinned = {}
        assert "step/shadow" not in pinned
        assert CANARY not in scene.pinned_bytes()


def test_folder_itself_that_becomes_a_link_is_empty(tmp_path: Path) -> None:
    """Below the project, the trainer can replace its checkpoint folder, or one above it."""
    scene = Scene(tmp_path, "folder")
    found = scan_folder(scene.path / "step")
    assert found.keys() == {"shadow"}
    (scene.path / "step").rename(scene.path / "aside")
    (scene.path / "evil").rename(scene.path / "step")
    assert scan_folder(scene.path / "step") == {}
    with pytest.raises(ChangedError, match="was replaced"):
        pin(scene.path / "step", found, scene.pins)
    assert Inspector(scene.path / "step").text("shadow", found["shadow"]) == ""


def test_hard_link_to_another_users_file_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    """Where the kernel does not protect hard links; those of the trainer's own files are kept."""
    scene = Scene(tmp_path, "file")
    (scene.path / "again").hardlink_to(scene.path / "step/shadow")
    (scene.path / "stolen").hardlink_to(scene.canary)  # as root, since this kernel protects it
    assert scan_folder(scene.path).keys() == {"again", "evil", "step", "step/shadow"}
    (scene.path / "twice").hardlink_to(scene.canary)
    assert scan_folder(scene.path).keys() == {"again", "evil", "step", "step/shadow"}


def test_hard_links_that_root_has_just_restored_are_in_the_scan(tmp_path: Path) -> None:
    """They become the trainer's when its program starts."""
    scene = Scene(tmp_path, "file")
    (scene.path / "a").write_bytes(b"restored")
    (scene.path / "step/b").hardlink_to(scene.path / "a")
    found = scan_folder(scene.path)
    assert found.keys() == {"a", "evil", "step", "step/b", "step/shadow"}
    assert found["a"].inode == found["step/b"].inode


def test_link_of_the_trainer_is_stored_as_a_link(tmp_path: Path) -> None:
    """With its text only, wherever it leads."""
    scene = Scene(tmp_path, "file")
    state = scan_folder(scene.path)["evil"]
    assert (state.kind, state.target, state.size) == ("link", str(scene.canary), 0)


@pytest.mark.parametrize("name", ["", "-wal", "-shm", "-journal"])
def test_databases_are_copied_from_the_folder_only(tmp_path: Path, name: str) -> None:
    """A database of root, or a journal of it, that a trainer links to is neither read nor used."""
    scene = Scene(tmp_path, "file")
    mode = "wal" if name in {"", "-wal", "-shm"} else "delete"
    secret = scene.canary.with_name("secret.db")
    path = scene.path / "trial.db"
    opened = []
    for place in (secret, path):
        opened.append(sqlite3.connect(place))
        opened[-1].execute(f"pragma journal_mode = {mode}")
        opened[-1].execute("create table t (x)")
        opened[-1].execute("insert into t values (?)", (str(place),))
        opened[-1].commit()
    before = {each.name: each.read_bytes() for each in secret.parent.iterdir()}
    found = scan_folder(scene.path)
    victim = scene.path / f"trial.db{name}"
    victim.unlink(missing_ok=True)
    target = secret.with_name(f"secret.db{name}")
    target = target if target.exists() else secret
    victim.symlink_to(target)
    databases = Databases(scene.path, tmp_path / "copies", Inspector(scene.path))
    replaced = databases.replace(found, {"trial.db"}, 0.0, hurry=False)
    copies = (tmp_path / "copies").iterdir() if (tmp_path / "copies").is_dir() else ()
    assert all(str(secret).encode() not in copy.read_bytes() for copy in copies if copy.is_file())
    assert before == {each.name: each.read_bytes() for each in secret.parent.iterdir()}
    if name != "-journal":  # SQLite does not use one that it does not have to
        assert replaced.copies == frozenset()
    for connection in opened:
        connection.close()


def test_file_that_grows_while_it_is_copied_is_copied_as_scanned(tmp_path: Path) -> None:
    """A trainer that makes a file of 8 TiB of it fills no disk."""
    scene = Scene(tmp_path, "file")
    path = scene.path / "step/shadow"
    found = scan_folder(scene.path)
    with path.open("r+b") as stream:
        stream.truncate(8 << 40)
        (scene.path / "again").hardlink_to(path)
        with pytest.raises(ChangedError, match="written to"):
            pin(scene.path, found, scene.pins, recently_modified=frozenset(found))
    assert sum(each.stat().st_blocks * 512 for each in scene.pins.rglob("*")) < 1 << 20


def test_files_that_are_reused_are_those_of_the_folder(tmp_path: Path) -> None:
    """Before a restore, a link has the digest that the manifest asks for."""

    scene = Scene(tmp_path, "file")
    digest = hashlib.sha256(CANARY).hexdigest()
    entry = Entry(
        path="step/shadow", kind="file", mode=0o600, mtime_ns=0, size_bytes=len(CANARY),
        parts=(Part(sha256=digest, size_bytes=len(CANARY)),),
    )  # fmt: skip
    (scene.path / "step/shadow").write_bytes(CANARY)  # so that the scan finds it alike
    with LocalFiles.of(scene.path) as local:
        first, second = scene.names
        first.rename(scene.path / "aside")
        second.rename(first)
        assert not local.take(entry, str(tmp_path / "taken"))
    assert not (tmp_path / "taken").exists()


def test_names_with_newlines_and_other_bytes_are_pinned(tmp_path: Path) -> None:
    """No name is taken for anything else."""
    scene = Scene(tmp_path, "file")
    for name in (b"new\nline", b"\xff\xfe", b"-rf"):
        (scene.path / os.fsdecode(name)).write_bytes(name)
    found = scan_folder(scene.path)
    pinned = pin(scene.path, found, scene.pins)
    assert pinned.keys() == found.keys()
    assert (scene.pins / pin_name(found["-rf"])).read_bytes() == b"-rf"


def test_inspector_notices_a_folder_that_was_made_anew(tmp_path: Path) -> None:
    """It keeps the folder open, but only as long as its path leads there."""
    path = tmp_path / "checkpoint"
    judge = inspector.Inspector(path)
    for content in ("first", "second"):
        path.mkdir()
        (path / "note").write_text(content)
        assert judge.text("note", scan_folder(path)["note"]) == content
        (path / "note").unlink()
        path.rmdir()
