"""Folders and regular files by their paths, without a link that somebody else can have made."""

import errno
import os
import stat
from functools import reduce
from operator import or_
from pathlib import Path


def flags_of(*names: str) -> int:
    """Return the flags of `os.open` with these names, without those that this system lacks.

    The command line imports this module on Windows too, where it opens nothing with them.
    """
    return reduce(or_, (int(getattr(os, name, 0)) for name in names))


FOLDER_FLAGS = flags_of("O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
# Without O_NONBLOCK, opening would block if a pipe had replaced the file.
FILE_FLAGS = flags_of("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC")
OTHERS = stat.S_IWGRP | stat.S_IWOTH
# As many links as Linux follows in one path.
MAX_LINKS = 40
# How the kernel refuses a link, a socket or a device, or a path through something else.
REPLACED = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV})


def open_folder(path: Path, *, make: bool = False) -> int:
    """Open a folder by its path.

    A link is followed only where nobody but root and this process's user can make one, so none
    below the first folder that others may write to. Raises NotADirectoryError for any other.
    """
    waiting = str(path.absolute()).split("/")
    at = os.open("/", FOLDER_FLAGS)
    try:
        is_ours, links = True, 0
        while waiting:
            name = waiting.pop(0)
            if name in {"", "."}:
                continue
            above = os.fstat(at)
            is_ours = is_ours and _is_ours(above)
            may_follow = is_ours and not above.st_mode & OTHERS
            target = _link_of(name, at) if may_follow else None
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise NotADirectoryError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                waiting = target.split("/") + waiting
                inner = os.open("/" if target.startswith("/") else ".", FOLDER_FLAGS, dir_fd=at)
            else:
                if make:
                    make_folder(name, at)
                inner = os.open(name, FOLDER_FLAGS, dir_fd=at)
            os.close(at)
            at = inner
    except OSError as exc:
        os.close(at)
        exc.filename = str(path)
        raise
    return at


def open_file(path: Path) -> int:
    """Open a regular file by its path for reading; it may not be a link, nor a pipe."""
    at = open_folder(path.parent)
    try:
        return open_regular(path.name, at)
    finally:
        os.close(at)


def open_regular(name: str, at: int, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file in the folder `at`; FileNotFoundError if it is anything else."""
    try:
        descriptor = os.open(name, flags | FILE_FLAGS, mode, dir_fd=at)
    except OSError as exc:
        if exc.errno in REPLACED:
            raise FileNotFoundError(errno.ENOENT, "it is not a regular file", name) from exc
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file", name)
    return descriptor


def make_folder(name: str, above: int) -> None:
    """Create a folder in the folder `above`, unless there is something of that name."""
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        return  # if it is not a folder, opening it fails


def _link_of(name: str, at: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=at)
    except OSError:
        return None


def _is_ours(info: os.stat_result) -> bool:
    """Return whether nobody but root and this user can replace what they have in a folder."""
    user = os.geteuid()
    return info.st_uid in {0, user} and not (
        info.st_mode & OTHERS and not info.st_mode & stat.S_ISVTX
    )
