"""The user as which the monitor reads a folder that is not runctl's.

A user who can replace the folder, or a folder above it, with a link must not make root read other
files for them. So the monitor becomes that user. It keeps the right to inspect and to signal
processes, which opens no file.
"""

import ctypes
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.as_user import switch_to
from runctl.model.errors import RequestError

PROC = Path("/proc")
_KILL, _SYS_PTRACE = 5, 19  # of linux/capability.h
_KEEP_CAPABILITIES = 8  # of linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A user with its groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ":".join(map(str, (self.uid, self.gid, *self.groups)))

    @classmethod
    def parse(cls, text: str) -> "Reader":
        """Read what `str` returned."""
        uid, gid, *groups = map(int, text.split(":"))
        return cls(uid=uid, gid=gid, groups=tuple(groups))


ROOT = Reader(uid=0, gid=0)


def reader_of(pid: int, folder: Path) -> Reader:
    """Return the user of a process; for a process of root, the user who can replace the folder."""
    user = _user_of(pid)
    return _owner_of(folder) if user.uid == 0 else user


def become(reader: Reader) -> None:
    """Become a user permanently, unless we are not root anyway."""
    if os.geteuid() != 0 or reader.uid == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_KEEP_CAPABILITIES, 1, 0, 0, 0) != 0:
        raise _error()
    switch_to(reader.uid, reader.gid, reader.groups)
    kept = 1 << _KILL | 1 << _SYS_PTRACE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable: of the first 32 capabilities, then of the others.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    if libc.capset(header, sets) != 0:
        raise _error()


def prepare_place(place: Path, reader: Reader) -> Path:
    """Make the folder below `place` in which a reader holds on to files; return it."""
    place.mkdir(parents=True, exist_ok=True)
    own = place / str(reader.uid)
    own.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(own, reader.uid, reader.gid, follow_symlinks=False)
    return own


def _user_of(pid: int) -> Reader:
    """Return the user that a process opens files as."""
    found: dict[str, list[int]] = {}
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        name, _, values = line.partition(":")
        if name in {"Uid", "Gid", "Groups"}:
            found[name] = [int(value) for value in values.split()]
    # Of the real, effective, saved and file-system ids.
    return Reader(uid=found["Uid"][3], gid=found["Gid"][3], groups=tuple(found["Groups"]))


def _owner_of(folder: Path) -> Reader:
    for path in _way_to(folder):
        status = path.lstat()
        if status.st_uid != 0:
            return _reader_for(status)
        by_others = status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0))
        if by_others and not status.st_mode & stat.S_ISVTX and not path.is_symlink():
            raise RequestError(
                f"--checkpoint-dir: other users can replace {folder}, as they may write to {path}, "
                f"so root does not read it; run `chmod go-w {path}`"
            )
    return ROOT


def _way_to(folder: Path) -> Iterator[Path]:
    """Yield a folder and its parents, by the given path and then by the real one."""
    named = folder.absolute()
    yield from (named, *named.parents)
    real = Path(os.path.realpath(folder))
    if real != named:
        yield from (real, *real.parents)


def _reader_for(status: os.stat_result) -> Reader:
    try:
        user = pwd.getpwuid(status.st_uid)
    except KeyError:
        return Reader(uid=status.st_uid, gid=status.st_gid)
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    return Reader(uid=user.pw_uid, gid=user.pw_gid, groups=tuple(groups))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
