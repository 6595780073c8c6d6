"""A piece of a file, read a little at a time so that memory stays small and caches warm."""

import contextlib
import mmap
import os
from collections.abc import Iterator

from runctl.agent.snapshot import ChangedError

PIECE_BYTES = 8 * 1024 * 1024
# What is hashed and sent right after it was read is still in the processor's cache.
READ_BYTES = 256 * 1024
# A piece that is no larger is read once and kept until it is sent.
HELD_BYTES = 2 * 1024 * 1024


def new_buffer() -> memoryview:
    """Return room to read into; a thread uses one for all its pieces.

    It begins with a page, which the kernel copies to a quarter faster than to a bytearray.
    """
    return memoryview(mmap.mmap(-1, HELD_BYTES))


class Piece:
    """Some bytes of an open file; each iteration reads them from their beginning.

    Raises ChangedError when the file became shorter.
    """

    def __init__(
        self, name: str, descriptor: int, offset: int, size_bytes: int, *, buffer: memoryview
    ) -> None:
        self.name = name
        self._descriptor = descriptor
        self._offset = offset
        self.size_bytes = size_bytes
        self._buffer = buffer
        self._is_held = False

    def __iter__(self) -> Iterator[memoryview]:
        if self._is_held:
            yield self._buffer[: self.size_bytes]
            return
        done = 0
        at_once = self.size_bytes if self.size_bytes <= len(self._buffer) else READ_BYTES
        while done < self.size_bytes:
            room = self._buffer[: min(at_once, self.size_bytes - done)]
            count = os.preadv(self._descriptor, [room], self._offset + done)
            if not count:
                raise ChangedError(f"{self.name} became shorter while it was read")
            self._is_held = count == self.size_bytes
            yield room[:count]
            done += count


@contextlib.contextmanager
def opened(path: str, *, name: str) -> Iterator[int]:
    """Open a file to read its pieces; ChangedError, about `name`, when it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as exc:
        raise ChangedError(f"{name} was removed while it was read") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)
