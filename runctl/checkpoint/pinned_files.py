"""A pinned file, by the name under which it is held in a folder of our own."""

import errno
import os
from pathlib import Path

from runctl.beneath.paths import flags_of, open_file
from runctl.checkpoint.folder_state import FileState

COPIED_BYTES = 1024 * 1024
COPY_FLAGS = flags_of("O_WRONLY", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC")


def pin_name(file_state: FileState) -> str:
    """Return the name under which a pinned file is held."""
    return f"{file_state.inode[0]:x}-{file_state.inode[1]:x}"


def open_pinned(pinned: Path | str, file_state: FileState) -> int:
    """Open a pinned file for reading; FileNotFoundError if it cannot be had as it was pinned."""
    place = f"{pinned}/{pin_name(file_state)}"
    try:
        return os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
    # Without hard links it is read in place, where the trainer may have put anything since.
    try:
        descriptor = open_file(Path(place).readlink())
    except NotADirectoryError as exc:
        raise FileNotFoundError(errno.ENOENT, "a folder above it was replaced", place) from exc
    info = os.fstat(descriptor)
    if (info.st_dev, info.st_ino) != file_state.inode:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "it was replaced", place)
    return descriptor


def copy_file(source: int, target: str, size: int) -> None:
    """Copy the first `size` bytes, no more: the file may grow without an end meanwhile."""
    copy = os.open(target, COPY_FLAGS, 0o600)
    try:
        done = 0
        while done < size and (block := os.pread(source, min(size - done, COPIED_BYTES), done)):
            done += len(block)
            while block:  # a file system that fills up accepts only a part of it
                block = block[os.write(copy, block) :]
    finally:
        os.close(copy)
