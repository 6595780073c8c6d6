"""A disk that takes nothing more, and a checkpoint folder that is on another one."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.inbox import Inbox
from runctl.agent.keeper import Keeper
from runctl.agent.pacing import Pace
from runctl.agent.pins import pin, pin_name, tell_where_links_fail
from runctl.agent.progress import Progress
from runctl.agent.saves import Saves
from runctl.agent.snapshot import Take, look
from runctl.policy.interval import Uptime


class Committer:
    """Reads what is pinned, as an upload would."""

    def __init__(self) -> None:
        self.committed: list[dict[str, bytes]] = []
        self.done = threading.Event()

    def commit(self, take: Take, place: Path, **_: Any) -> None:
        files = {path: seen for path, seen in take.view.items() if seen.kind == "file"}
        content = {path: (place / pin_name(seen)).read_bytes() for path, seen in files.items()}
        self.committed.append(content)
        self.done.set()

    def expected_time(self, _size: int) -> timedelta:
        return timedelta(0)

    def remove_old(self) -> None:
        """Nothing is old here."""


def keeper(tmp_path: Path, committer: Committer, pins: Path, progress: Progress) -> Keeper:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    saves = Saves(tmp_path / "saved.jsonl")
    return Keeper(
        committer,  # type: ignore[arg-type]
        folder=folder,
        pins=pins,
        spare=tmp_path / "spare",
        saves=saves,
        pace=Pace(fixed=timedelta(minutes=1), seen=Uptime(), began=time.monotonic()),
        family=list,
        leader=lambda: 0,
        progress=progress,
        inbox=Inbox(),
    )


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A place where nothing can be made."""
    (tmp_path / "full").touch()
    return tmp_path / "full" / "pins"


def test_last_checkpoint_is_saved_though_the_disk_takes_not_even_a_link(
    tmp_path: Path, full: Path
) -> None:
    committer = Committer()
    one = keeper(tmp_path, committer, full, Progress())
    one.start()
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"weights")
    assert one.finish(orderly=True, until=time.monotonic() + 20)
    assert committer.committed == [{"step-1.bin": b"weights"}]


def test_full_disk_is_told_once_and_the_save_is_made_up_for_when_there_is_space(
    tmp_path: Path, full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    committer, progress = Committer(), Progress()
    told = threading.Event()
    one = keeper(tmp_path, committer, full, progress)
    progress.on_change(lambda: told.set() if progress.as_arguments()["warning"] else None)
    one.start()
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"weights")
    assert told.wait(20)
    assert "cannot be looked at" in progress.as_arguments()["warning"]
    full.parent.unlink()
    assert committer.done.wait(20)
    assert committer.committed == [{"step-1.bin": b"weights"}]
    assert one.finish(orderly=True, until=time.monotonic() + 20)
    assert progress.as_arguments()["warning"] == ""
    messages = [record.message for record in caplog.records]
    assert sum("cannot be looked at" in message for message in messages) == 1


def test_half_a_copy_does_not_take_the_space_that_the_trainer_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    (folder / "state.bin").write_bytes(b"weights")
    view = look(folder)

    def half(_source: Path, target: Path) -> None:
        target.write_bytes(b"wei")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space left"):
        pin(folder, view, pins, hot=frozenset(view))
    assert not pins.exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the test's own."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        raise AssertionError("/dev/shm is no file system of its own here")
    yield folder
    shutil.rmtree(folder)


def test_folder_on_another_file_system_is_read_where_it_lies_which_is_said(
    tmp_path: Path, elsewhere: Path
) -> None:
    (elsewhere / "step-1.bin").write_bytes(b"weights")
    (elsewhere / "gone.bin").write_bytes(b"")
    view = look(elsewhere)
    (elsewhere / "gone.bin").unlink()
    held = pin(elsewhere, view, tmp_path / "pins")
    assert list(held) == ["step-1.bin"]
    assert (tmp_path / "pins" / pin_name(view["step-1.bin"])).read_bytes() == b"weights"
    assert "hard links are not possible" in tell_where_links_fail(elsewhere, tmp_path / "pins")
    assert tell_where_links_fail(tmp_path, tmp_path / "pins") == ""
