"""The disk: whether it is full, and how growing files give back space."""

import ctypes
import errno
import logging
import os
from pathlib import Path

# linux/falloc.h: the file keeps its length, and every offset its meaning.
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
# With less space than this, nothing works.
NOTHING_BYTES = 64 * 1024
# How another program, such as pip, reports a full disk.
FULL = os.strerror(errno.ENOSPC)

logger = logging.getLogger(__name__)


def says_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or our share of it, is full."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def room(folder: Path) -> str:
    """Return how much of the disk below a folder is free, in words."""
    disk = os.statvfs(folder)
    free, size = (count * disk.f_frsize / 2**20 for count in (disk.f_bavail, disk.f_blocks))
    return f"{free:,.0f} of {size:,.0f} MiB are free"


def is_full(folder: Path) -> bool:
    """Whether the disk below a folder has no space for data, or none for files."""
    disk = os.statvfs(folder)
    # Some file systems do not count their files.
    no_files = disk.f_files > 0 and disk.f_favail == 0
    return no_files or disk.f_bavail * disk.f_frsize < NOTHING_BYTES


def count_up(path: Path) -> int:
    """Add one to what a file counts by its length, which takes no space on a full disk."""
    with path.open("ab") as stream:
        return stream.truncate(stream.tell() + 1)


def free_beginning(path: Path, length: int) -> bool:
    """Free the first `length` bytes of a file, which then read as zeros; return whether it worked.

    Unlike truncation, it loses nothing that is appended meanwhile, and processes that have the file
    open do not notice. Not every file system supports it; ext4, XFS, btrfs and tmpfs do.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        logger.warning("the space of %s cannot be freed: %s", path.name, exc)
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if libc.fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, 0, length) != 0:
            reason = os.strerror(ctypes.get_errno())
            logger.warning("the space of %s cannot be freed: %s", path.name, reason)
            return False
    finally:
        os.close(descriptor)
    return True
