"""A full disk, and a checkpoint folder on another disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving import pinned
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.pinning import describe_missing_links, pin
from runctl.checkpoint.settling import scan_folder
from tests.agent.savers import Committer, start_saver

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A place where nothing can be created."""
    (tmp_path / "full").touch()
    return tmp_path / "full" / "pins"


def test_last_checkpoint_is_saved_although_the_disk_has_no_space_for_a_link(
    tmp_path: Path, full: Path
) -> None:
    committer = Committer()
    saver = start_saver(tmp_path, committer, full, Progress())
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"weights")
    assert saver.finish(until=time.monotonic() + 20, torn=frozenset(), abrupt=False)
    assert committer.committed == [{"step-1.bin": b"weights"}]


def test_full_disk_is_reported_once_and_the_save_is_repeated_when_there_is_space(
    tmp_path: Path, full: Path, caplog: pytest.LogCaptureFixture
) -> None:
    committer, progress = Committer(), Progress()
    warned = threading.Event()
    saver = start_saver(tmp_path, committer, full, progress)
    progress.on_change(lambda: warned.set() if progress.snapshot().warning else None)
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"weights")
    assert warned.wait(20)
    assert "cannot be pinned" in progress.snapshot().warning
    full.parent.unlink()
    assert committer.done.wait(20)
    assert committer.committed == [{"step-1.bin": b"weights"}]
    assert saver.finish(until=time.monotonic() + 20, torn=frozenset(), abrupt=False)
    assert progress.snapshot().warning == ""
    messages = [record.message for record in caplog.records]
    assert sum("cannot be pinned" in message for message in messages) == 1


def test_half_a_copy_does_not_take_the_space_that_the_trainer_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    (folder / "state.bin").write_bytes(b"weights")
    view = scan_folder(folder)

    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        write(descriptor, content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        pin(folder, view, pins, recently_modified=frozenset(view))
    assert not pins.exists()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the test's own."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        raise AssertionError("/dev/shm is not a separate file system here")
    yield folder
    shutil.rmtree(folder)


def test_folder_on_another_file_system_is_read_in_place_and_that_is_logged(
    tmp_path: Path, elsewhere: Path
) -> None:
    (elsewhere / "step-1.bin").write_bytes(b"weights")
    (elsewhere / "gone.bin").write_bytes(b"")
    view = scan_folder(elsewhere)
    (elsewhere / "gone.bin").unlink()
    held = pin(elsewhere, view, tmp_path / "pins")
    assert list(held) == ["step-1.bin"]
    assert (tmp_path / "pins" / pin_name(view["step-1.bin"])).read_bytes() == b"weights"
    assert "hard links are not possible" in describe_missing_links(elsewhere, tmp_path / "pins")
    assert describe_missing_links(tmp_path, tmp_path / "pins") == ""


def test_warning_of_a_full_disk_stands_until_there_is_space_and_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two tries the folder settles again, and those scans find no problem."""
    tries, enough = [], threading.Event()

    def refuse(*_: Any, **__: Any) -> None:
        tries.append(progress.snapshot().warning)
        if len(tries) == 3:
            enough.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pinned, "pin", refuse)
    committer, progress = Committer(), Progress()
    saver = start_saver(tmp_path, committer, tmp_path / "pins", progress)
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"weights")
    assert enough.wait(30)
    monkeypatch.undo()
    assert committer.done.wait(20)
    assert saver.finish(until=time.monotonic() + 20, torn=frozenset(), abrupt=False)
    assert "" not in tries[1:]
    assert progress.snapshot().warning == ""
    messages = [record.message for record in caplog.records]
    assert sum("No space left" in message for message in messages) == 1


# A disk of 1 MiB that is full to the last byte, in a mount namespace of the program's own.
ON_A_FULL_DISK = """
import contextlib, logging, sys
from pathlib import Path
from runctl.local.ec2 import disks
disk = Path(sys.argv[1])
disks.enter_own_namespace()
disks.mount(disk, 1 << 20)

def fill():
    with (disk / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
"""


def on_a_full_disk(tmp_path: Path, program: str) -> list[str]:
    """Run a program that may fill such a disk, and return the lines that it printed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-c", ON_A_FULL_DISK + program, str(disk)]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_failures_are_counted_although_nothing_can_be_written(tmp_path: Path) -> None:
    program = """
from runctl.agent.instance.disk import count_up, is_full, room
print(is_full(disk))
fill()
print(is_full(disk), room(disk))
print([count_up(disk / "failures") for _ in range(3)])
"""
    lines = on_a_full_disk(tmp_path, program)
    assert lines == ["False", "True 0 of 1 MiB are free", "[1, 2, 3]"]


def test_lease_is_renewed_on_a_full_disk(
    tmp_path: Path,
) -> None:
    program = """
import os
from runctl.agent.reporting.heartbeat import touch
touch(disk / "lease")
os.utime(disk / "lease", (0, 0))
fill()
touch(disk / "lease")
print((disk / "lease").stat().st_mtime > 0)
"""
    assert on_a_full_disk(tmp_path, program) == ["True"]


def test_archive_that_does_not_fit_is_not_called_damaged(tmp_path: Path) -> None:
    program = """
import errno
from runctl.agent.instance.archive import pack, unpack
(disk / "folder").mkdir()
(disk / "folder/large").write_bytes(bytes(500_000))
pack(disk / "archive.tar.gz", disk / "folder")
fill()
try:
    unpack(disk / "archive.tar.gz", disk / "unpacked")
except OSError as exc:
    print(errno.errorcode[exc.errno])
"""
    assert on_a_full_disk(tmp_path, program) == ["ENOSPC"]


def test_log_of_the_agent_on_a_full_disk_is_still_shipped_and_kept(
    tmp_path: Path,
) -> None:
    program = """
from runctl.agent.reporting.agent_log import OwnLog
log = OwnLog(disk / "agent.log")
logging.basicConfig(handlers=[log], level=logging.INFO, format="%(message)s")
logging.info("before")
fill()
long = "x" * 5000
logging.info(long)
logging.info("full")
print([line[:9] for line in log.take_unwritten()], log.take_unwritten())
(disk / "filler").unlink()
logging.info("after")
print(log.take_unwritten())
lines = log.read_end().decode().splitlines()
print([line[:9] for line in lines], lines[-2] == long)
"""
    assert on_a_full_disk(tmp_path, program) == [
        "['xxxxxxxxx', 'full'] []",
        "[]",
        # The file has the beginning of the line that did not fit, followed by all missing lines.
        "['before', 'xxxxxxxxx', 'after', 'xxxxxxxxx', 'full'] True",
    ]
