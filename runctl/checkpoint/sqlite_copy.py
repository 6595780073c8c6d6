"""Consistent copies of SQLite databases that a program holds open."""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runctl.beneath.folder import Folder
from runctl.checkpoint import sqlite_backup

SIDECARS = ("-wal", "-shm", "-journal")
HEADER_BYTES = 100
WAL_VERSION = 2
# Where SQLite keeps its locks in a database file: a byte each for pending and reserved, then
# shared.
LOCKS_AT, LOCKS_BYTES = 0x40000000, 512
LOCK = "hhqqi4x"
PAUSE = 0.02
COPIED_BYTES = 1024 * 1024


class DatabaseError(Exception):
    """A database cannot be copied now; the message says why."""


def copy_database(folder: Folder, path: str, target: Path, work: Path, *, seconds: float) -> None:
    """Copy a database that is in use to a single file, within a time limit.

    Nothing in the database's folder is changed or added. Readers do not disturb a writer in WAL
    mode, so there SQLite's backup copies it in one transaction. In the other modes, even a reader's
    lock makes a commit fail in a program that does not wait for locks. So the file is copied
    without a lock, and the copy counts if nobody wrote meanwhile; only if there is always a writer
    does SQLite's backup copy it in small steps. Raises DatabaseError.
    """
    until = time.monotonic() + seconds
    try:
        with _opened(folder, path) as source:
            header = os.pread(source, HEADER_BYTES, 0)
        if WAL_VERSION in header[18:20]:
            _back_up(folder, path, target, work, until=until, in_one=True)
        elif not _copy_unlocked(folder, path, target, until=time.monotonic() + seconds / 2):
            _back_up(folder, path, target, work, until=until, in_one=False)
        with _opened(folder, path) as source:
            info = os.fstat(source)
        target.chmod(info.st_mode & 0o777)
        os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
    except OSError as exc:
        raise DatabaseError(str(exc)) from exc


@contextlib.contextmanager
def _opened(folder: Folder, path: str) -> Iterator[int]:
    """Open a file of the database. Never while SQLite has it open: closing it drops all locks."""
    descriptor = folder.open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_unlocked(folder: Folder, path: str, target: Path, *, until: float) -> bool:
    """Copy a database while nobody writes to it; return whether there was such a moment."""
    while time.monotonic() < until:
        with _opened(folder, path) as source:
            before = _state(source)
            if not _is_written(source) and not _has_journal(folder, path):
                _copy(source, target, before[1], until=until)
                quiet = not _is_written(source) and not _has_journal(folder, path)
                if quiet and _state(source) == before:
                    return True
        time.sleep(PAUSE)
    return False


def _copy(source: int, target: Path, size: int, *, until: float) -> None:
    """Copy the first bytes of a file. Raises DatabaseError at the time limit."""
    done = 0
    with target.open("wb") as copy:
        while done < size and (block := os.pread(source, COPIED_BYTES, done)):
            if time.monotonic() > until:
                raise DatabaseError(f"{size - done} of {size} bytes were left at the time limit")
            copy.write(block)
            done += len(block)


def _state(file: int) -> tuple[bytes, int, int]:
    """Return what every transaction changes: the counter in the header, the size and the time."""
    info = os.fstat(file)
    return os.pread(file, HEADER_BYTES, 0), info.st_size, info.st_mtime_ns


def _is_written(file: int) -> bool:
    """Return whether a process holds one of SQLite's write locks; asking takes none."""
    asked = struct.pack(LOCK, fcntl.F_RDLCK, os.SEEK_SET, LOCKS_AT, LOCKS_BYTES, 0)
    answer = struct.unpack(LOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return bool(answer[0] != fcntl.F_UNLCK)


def _has_journal(folder: Folder, path: str) -> bool:
    """Return whether there is a journal with content; some modes leave an empty one."""
    with contextlib.suppress(OSError), _opened(folder, f"{path}-journal") as journal:
        return any(os.pread(journal, 8, 0))
    return False


def _back_up(
    folder: Folder, path: str, target: Path, work: Path, *, until: float, in_one: bool
) -> None:
    """Copy a database through SQLite's backup.

    It is opened by other names, in a folder of our own. So SQLite creates nothing next to the
    original, but locks are shared all the same, since they belong to files and not to names.
    """
    linked = _link_all(folder, path, work)
    try:
        with _backing_up(linked, target, until=until, in_one=in_one) as process:
            _follow(process, lambda: _are_same(folder, path, linked))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for sidecar in SIDECARS:
            Path(f"{target}{sidecar}").unlink(missing_ok=True)


@contextlib.contextmanager
def _backing_up(
    linked: Path, target: Path, *, until: float, in_one: bool
) -> "Iterator[subprocess.Popen[str]]":
    """Start the program that copies a database; it is killed if it exceeds its time."""
    # Without the packages of the machine: it needs none, and starts sooner.
    command = [sys.executable, "-I", "-S", sqlite_backup.__file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        limit = max(0.0, until - time.monotonic()) + 2 * sqlite_backup.BUSY_SECONDS
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            document = {
                "database": str(linked), "target": str(target), "until": until, "in_one": in_one
            }  # fmt: skip
            _send(process, json.dumps(document))
            yield process
        finally:
            process.kill()
            timer.cancel()


def _follow(process: "subprocess.Popen[str]", are_same: Callable[[], bool]) -> None:
    """Let the program copy what it has opened, if that is the right file. Raises DatabaseError."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said == sqlite_backup.OPENED:
        if not are_same():
            raise DatabaseError("it was replaced while it was being opened")
        _send(process, sqlite_backup.GO_ON)
        said = process.stdout.read().strip()
    status = process.wait()
    if status < 0:
        # SIGBUS: another process has shortened the file that SQLite has mapped.
        raise DatabaseError(f"the process that copies it was ended by signal {-status}")
    if status != 0:
        raise DatabaseError(said or f"the process that copies it failed (status {status})")


def _send(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        print(line, file=process.stdin, flush=True)


def _link_all(folder: Folder, path: str, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    linked = work / "database"
    # A journal is not linked: it belongs to a transaction in progress.
    for sidecar in ("", "-wal", "-shm"):
        try:
            with folder.parent(f"{path}{sidecar}") as (at, name):
                os.link(name, f"{linked}{sidecar}", src_dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            if not sidecar:
                raise
            continue
        info = os.lstat(f"{linked}{sidecar}")
        # SQLite writes to some of them, with the rights of the agent.
        if not stat.S_ISREG(info.st_mode) or folder.is_foreign(info, own_links=1):
            raise DatabaseError(f"{path}{sidecar} is not a plain file of its own")
    return linked


def _are_same(folder: Folder, path: str, linked: Path) -> bool:
    """Return whether the names that SQLite has opened are still the ones that the program uses."""
    for sidecar in ("", "-wal", "-shm"):
        theirs = None
        with (
            contextlib.suppress(FileNotFoundError),
            folder.parent(f"{path}{sidecar}") as (at, name),
        ):
            theirs = _identity(os.stat(name, dir_fd=at, follow_symlinks=False))
        ours = None
        with contextlib.suppress(FileNotFoundError):
            ours = _identity(os.lstat(f"{linked}{sidecar}"))
        if ours != theirs:
            return False
    return True


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
