"""Extraction of a bundle's files as its bytes arrive, without holding all of them."""

import hashlib
import os
from collections.abc import Sequence

from runctl.aws.fast_s3.http1 import Buffer
from runctl.checkpoint.placing import NEW_FILE_FLAGS
from runctl.checkpoint.worker_pool import alone
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import DamagedCheckpointError

OLD_FILE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacking:
    """Extracts the files from a bundle's bytes, which may arrive more than once."""

    def __init__(self, files: Sequence[tuple[str, Entry]]) -> None:
        """Begin with the paths to write to and their entries, in the order of their offsets."""
        self._files = files
        self._next = 0
        self._digest = hashlib.sha256()
        self._wrong = ""

    def check(self) -> None:
        """Raise DamagedCheckpointError if a file's bytes do not match its entry.

        If the bundle's own bytes match, the file lies elsewhere in it than the manifest says.
        """
        if self._wrong or self._next < len(self._files):
            path = self._wrong or self._files[self._next][1].path
            raise DamagedCheckpointError(
                f"{path} is not where the manifest says it is in its bundle"
            )

    def write(self, offset: int, chunk: Buffer) -> None:
        """Write the parts of files that are in the chunk at `offset`."""
        with alone(len(self._files)):
            self._write(offset, chunk)

    def _write(self, offset: int, chunk: Buffer) -> None:
        if offset == 0:  # another try begins
            self._next, self._digest, self._wrong = 0, hashlib.sha256(), ""
        content, end = memoryview(chunk), offset + len(chunk)
        while self._next < len(self._files):
            path, entry = self._files[self._next]
            begins = entry.offset or 0
            ends = begins + entry.size_bytes
            if begins >= end:
                return
            first = max(begins, offset)
            held = content[first - offset : min(ends, end) - offset]
            _write_file(path, held, at=first - begins)
            self._digest.update(held)
            if ends > end:
                return
            if self._digest.hexdigest() != entry.sha256:
                self._wrong = entry.path
            self._next, self._digest = self._next + 1, hashlib.sha256()


def _write_file(path: str, content: memoryview, *, at: int) -> None:
    descriptor = os.open(path, OLD_FILE_FLAGS) if at else _create(path)
    try:
        done = 0
        while done < len(content):  # a file system that fills up accepts only a part of it
            done += os.pwrite(descriptor, content[done:], at + done)
    finally:
        os.close(descriptor)


def _create(path: str) -> int:
    try:
        return os.open(path, NEW_FILE_FLAGS, 0o600)
    except FileExistsError:  # another try begins
        os.unlink(path)
        return os.open(path, NEW_FILE_FLAGS, 0o600)
