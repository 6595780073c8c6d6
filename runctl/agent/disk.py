"""Giving back the disk space of what a growing file no longer needs."""

import ctypes
import logging
import os
from pathlib import Path

# linux/falloc.h: the file keeps its length, and every offset its meaning.
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02

logger = logging.getLogger(__name__)


def free_beginning(path: Path, length: int) -> bool:
    """Free the first `length` bytes of a file, which read as zeros then; whether that worked.

    Unlike a truncation it loses nothing that is appended meanwhile, and whoever has the file open
    need not know. Not every file system can do it; ext4, XFS, btrfs and tmpfs can.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except OSError as exc:
        logger.warning("the space of %s cannot be freed: %s", path.name, exc)
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if libc.fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, 0, length) != 0:
            told = os.strerror(ctypes.get_errno())
            logger.warning("the space of %s cannot be freed: %s", path.name, told)
            return False
    finally:
        os.close(descriptor)
    return True
