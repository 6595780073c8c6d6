"""Tests: what root changes in a trainer's folder stays in it."""

import os
import sys
from pathlib import Path

import pytest

from runctl.beneath.changes import clear, give, remove, rewrite
from tests.beneath.swapping import (
    CANARY,
    TRAINER,
    give_to_trainer,
    hide_canary,
    needs_root,
    swapped,
)

ROUNDS = 300


def _deep(folder: Path, levels: int) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def test_trees_of_any_depth_are_removed(tmp_path: Path) -> None:
    """Deeper than the stack, and than the descriptors that a process may have."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    _deep(folder, sys.getrecursionlimit() + 100)
    clear(folder)
    assert list(folder.iterdir()) == []
    _deep(folder, 5)
    remove(folder)
    assert not folder.exists()
    remove(folder)


def test_names_of_an_interrupted_removal_are_no_obstacle(tmp_path: Path) -> None:
    """A killed agent leaves folders that it has moved to the top."""
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / ".runctl-removed-1/x").mkdir(parents=True)
    (tmp_path / ".runctl-removed-2").write_text("")
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_their_targets_stay(tmp_path: Path) -> None:
    """In the folder, and in its place."""
    canary = hide_canary(tmp_path / "root")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "file").symlink_to(canary)
    (folder / "folder").symlink_to(canary.parent)
    clear(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.symlink_to(canary.parent)
    clear(folder)
    assert folder.is_dir()
    assert not folder.is_symlink()
    assert canary.read_bytes() == CANARY


@needs_root
def test_folder_below_a_trainers_link_is_not_emptied(tmp_path: Path) -> None:
    """A checkpoint folder in the project lies below folders that the trainer can replace."""
    canary = hide_canary(tmp_path / "root/checkpoints")
    project = tmp_path / "project"
    project.mkdir()
    (project / "out").symlink_to(canary.parents[1])
    give_to_trainer(project)
    with pytest.raises(NotADirectoryError):
        clear(project / "out/checkpoints")
    remove(project / "out/checkpoints")
    assert canary.read_bytes() == CANARY


@needs_root
def test_swaps_while_a_folder_is_emptied_or_given_touch_nothing_else(tmp_path: Path) -> None:
    """Another process exchanges a folder and a link to root's folder all the time."""
    canary = hide_canary(tmp_path / "root")
    trainer = tmp_path / "trainer"
    for _ in range(ROUNDS // 10):
        (trainer / "step").mkdir(parents=True)
        (trainer / "step/shadow").write_bytes(b"weights")
        (trainer / "evil").symlink_to(canary.parent)
        give_to_trainer(trainer)
        with swapped(trainer / "step", trainer / "evil"):
            for _ in range(10):
                give(trainer, TRAINER, TRAINER)
        clear(trainer)
        assert canary.read_bytes() == CANARY
        assert (canary.stat().st_uid, canary.parent.stat().st_uid) == (0, 0)


@needs_root
def test_hard_link_to_another_users_file_is_not_given(tmp_path: Path) -> None:
    """Other names in the same folder are fine: a restored checkpoint has them."""
    canary = hide_canary(tmp_path / "root")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "own").write_bytes(b"weights")
    (folder / "again").hardlink_to(folder / "own")
    (folder / "evil").hardlink_to(canary)
    (folder / "link").symlink_to(canary)
    give(folder, TRAINER, TRAINER)
    assert (folder / "own").stat().st_uid == TRAINER
    assert canary.stat().st_uid == 0


@needs_root
def test_a_single_file_is_given_unless_it_is_a_link(tmp_path: Path) -> None:
    """Such as the file of metrics."""
    canary = hide_canary(tmp_path / "root")
    (tmp_path / "metrics").write_text("")
    give(tmp_path / "metrics", TRAINER, TRAINER)
    assert (tmp_path / "metrics").stat().st_uid == TRAINER
    (tmp_path / "evil").symlink_to(canary)
    give(tmp_path / "evil", TRAINER, TRAINER)
    assert canary.stat().st_uid == 0


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe", "folder"])
def test_request_is_not_written_elsewhere(tmp_path: Path, kind: str) -> None:
    """A trainer that replaces the file of requests gets none."""
    canary = hide_canary(tmp_path / "root")
    request = tmp_path / "request"
    if kind == "symlink":
        request.symlink_to(canary)
    elif kind == "hard link":
        request.hardlink_to(canary)
    elif kind == "pipe":
        os.mkfifo(request)
    else:
        request.mkdir()
    with pytest.raises(OSError, match=r"name|regular|directory"):
        rewrite(request, b"{}")
    assert canary.read_bytes() == CANARY


def test_request_is_written_anew_in_place(tmp_path: Path) -> None:
    """A container has the file itself mounted."""
    request = tmp_path / "request"
    rewrite(request, b"a longer one")
    inode = request.stat().st_ino
    rewrite(request, b"{}")
    assert (request.read_bytes(), request.stat().st_ino) == (b"{}", inode)
