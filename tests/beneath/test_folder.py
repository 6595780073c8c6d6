"""Tests: nothing in a folder that somebody else writes to leads out of it."""

import os
import socket
from pathlib import Path

import pytest

from runctl.beneath.changes import clear
from runctl.beneath.folder import Folder, OutsideError, walk
from runctl.beneath.paths import open_file, open_folder
from tests.beneath.swapping import (
    CANARY,
    give_to_trainer,
    hide_canary,
    needs_root,
    swapped,
)

READS = 3000


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


def _replacements(place: Path, canary: Path) -> dict[str, Path]:
    """Make one of everything that may take a file's place."""
    (place / "link").symlink_to(canary)
    os.mkfifo(place / "pipe")
    (place / "folder").mkdir()
    (place / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(place)  # the path of a socket is short
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
    return {name: place / name for name in ("link", "pipe", "folder", "device", "socket")}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "socket"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    """Neither is a pipe waited for, nor a device touched, nor a link followed."""
    canary = hide_canary(tmp_path / "root")
    (tmp_path / "trainer").mkdir()
    _replacements(tmp_path / "trainer", canary)
    with Folder.opened(tmp_path / "trainer") as folder, pytest.raises(FileNotFoundError):
        folder.open(kind)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "trainer" / kind)


def test_file_below_a_link_to_a_folder_is_not_opened(tmp_path: Path) -> None:
    """A folder above the file that is replaced by a link is as bad as the file itself."""
    canary = hide_canary(tmp_path / "root")
    trainer = tmp_path / "trainer"
    (trainer / "a").mkdir(parents=True)
    (trainer / "a/b").symlink_to(canary.parent)
    with Folder.opened(trainer) as folder:
        with pytest.raises(FileNotFoundError):
            folder.open("a/b/shadow")
        assert [found.path for found in walk(folder)] == ["a", "a/b"]


@needs_root
@pytest.mark.parametrize("what", ["file", "folder"])
def test_swaps_in_a_tight_loop_never_show_the_canary(tmp_path: Path, what: str) -> None:
    """Another process swaps the file, or the folder above it, with a link while it is read."""
    canary = hide_canary(tmp_path / "root")
    trainer = tmp_path / "trainer"
    (trainer / "step").mkdir(parents=True)
    (trainer / "step/shadow").write_bytes(b"weights")
    if what == "file":
        (trainer / "step/evil").symlink_to(canary)
        names = trainer / "step/shadow", trainer / "step/evil"
    else:
        (trainer / "evil").symlink_to(canary.parent)
        names = trainer / "step", trainer / "evil"
    give_to_trainer(trainer)
    seen = set()
    with swapped(*names), Folder.opened(trainer) as folder:
        for _ in range(READS):
            try:
                seen.add(_read(folder.open("step/shadow")))
            except FileNotFoundError:
                seen.add(b"refused")
            assert not any(b"shadow" in found.path.encode() and found.info.st_uid == 0
                           for found in walk(folder))  # fmt: skip
    assert seen == {b"weights", b"refused"}


@needs_root
def test_folder_itself_that_is_replaced_by_a_link_is_not_opened(tmp_path: Path) -> None:
    """A link is followed only where root alone can make one."""
    canary = hide_canary(tmp_path / "root")
    project = tmp_path / "project"
    project.mkdir()
    (project / "checkpoints").symlink_to(canary.parent)
    assert _read(open_file(project / "checkpoints/shadow")) == CANARY  # root's link
    give_to_trainer(project)
    for path in (project / "checkpoints", project / "checkpoints/below"):
        with pytest.raises(NotADirectoryError):
            open_folder(path)
    with pytest.raises(NotADirectoryError):
        open_file(project / "checkpoints/shadow")


@needs_root
def test_link_through_a_trainers_folder_is_not_trusted_because_root_made_it(
    tmp_path: Path,
) -> None:
    """What is below the trainer's folder is its own, whoever named that folder."""
    canary = hide_canary(tmp_path / "root")
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "inner").symlink_to(canary.parent)
    give_to_trainer(disk)
    (tmp_path / "checkpoint").symlink_to(disk / "inner")
    with pytest.raises(NotADirectoryError):
        open_folder(tmp_path / "checkpoint")


@needs_root
def test_hard_link_to_another_users_file_is_not_opened(tmp_path: Path) -> None:
    """Where the kernel does not protect hard links, a trainer can give any file a name."""
    canary = hide_canary(tmp_path / "root")
    trainer = tmp_path / "trainer"
    trainer.mkdir()
    (trainer / "own").write_bytes(b"weights")
    (trainer / "again").hardlink_to(trainer / "own")
    give_to_trainer(trainer)
    (trainer / "shadow").hardlink_to(canary)  # as root, since this kernel protects them
    with Folder.opened(trainer) as folder:
        with pytest.raises(FileNotFoundError):
            folder.open("shadow")
        assert _read(folder.open("again")) == b"weights"


def test_links_inside_are_followed_on_request(tmp_path: Path) -> None:
    """In outputs, a link to a file counts as that file."""
    root = tmp_path / "output"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_bytes(b"inside")
    (root / "relative").symlink_to("sub/../sub/file")
    (root / "absolute").symlink_to(root / "sub/file")
    (root / "folder").symlink_to("sub")
    (root / "twice").symlink_to("folder/file")
    with Folder.opened(root) as folder:
        for name in ("relative", "absolute", "folder/file", "twice"):
            assert _read(folder.open_inside(name)) == b"inside"


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../root/shadow", "sub/../../root/shadow", "up/root/shadow", "loop"]
)
def test_links_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    """By whatever detour."""
    hide_canary(tmp_path / "root")
    root = tmp_path / "output"
    (root / "sub").mkdir(parents=True)
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "evil").symlink_to(target)
    with Folder.opened(root) as folder, pytest.raises(OutsideError):
        folder.open_inside("evil")


def test_tree_deeper_than_the_limit_takes_few_descriptors(tmp_path: Path) -> None:
    """No trainer exhausts the agent's descriptors or its stack."""
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    with Folder.opened(tmp_path) as folder:
        assert len(list(walk(folder))) == 100
    clear(tmp_path)


def test_names_may_have_any_bytes(tmp_path: Path) -> None:
    """A newline, or what is not UTF-8."""
    for name in (b"new\nline", b"\xff\xfe", b" "):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    with Folder.opened(tmp_path) as folder:
        for found in list(walk(folder)):
            assert _read(folder.open(found.path)) == os.fsencode(found.path)
