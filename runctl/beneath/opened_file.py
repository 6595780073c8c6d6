"""A file that stays the same one while it is read, whatever its name leads to by then."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from runctl.beneath.paths import open_file


class OpenedFile:
    """A regular file that is open for reading; safe to share between threads."""

    def __init__(self, descriptor: int, name: str) -> None:
        """`name` is how errors name it. The descriptor is the caller's to close."""
        self._descriptor = descriptor
        self.name = name

    @classmethod
    @contextlib.contextmanager
    def at(cls, path: Path) -> Iterator["OpenedFile"]:
        """Open the file at a path, which may not be a link; FileNotFoundError without one."""
        descriptor = open_file(path)
        try:
            yield cls(descriptor, path.name)
        finally:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """How large it is now."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset; fewer only at the end of the file."""
        blocks = []
        while size and (block := os.pread(self._descriptor, size, offset)):
            blocks.append(block)
            offset, size = offset + len(block), size - len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
