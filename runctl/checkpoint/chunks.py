"""A piece of a file, read a little at a time so that memory stays small and caches warm."""

import contextlib
import mmap
import os
import queue
from collections.abc import Iterator
from typing import Protocol

from runctl.checkpoint.settling import ChangedError

CHUNK_BYTES = 8 * 1024 * 1024
# What is read at once. Much less costs more calls, and much more falls out of the processor's cache
# before it is used. A piece that is no larger is read once and kept until it is sent.
BUFFER_BYTES = 1024 * 1024
# The same where a piece is sent: there are many such places, and a socket takes less at once.
SENT_BYTES = 512 * 1024


def new_buffer() -> memoryview:
    """Return room to read into.

    It begins with a page, which the kernel copies to a quarter faster than to a bytearray.
    """
    return memoryview(mmap.mmap(-1, BUFFER_BYTES))


class Chunk:
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
        self.buffer = buffer
        self.is_held = False

    def __iter__(self) -> Iterator[memoryview]:
        if self.is_held:
            yield self.buffer[: self.size_bytes]
            return
        done = 0
        while done < self.size_bytes:
            room = self.buffer[: self.size_bytes - done]
            count = os.preadv(self._descriptor, [room], self._offset + done)
            if not count:
                raise ChangedError(f"{self.name} became shorter while it was read")
            self.is_held = count == self.size_bytes
            yield room[:count]
            done += count


class InABuffer(Protocol):
    """What is read into a buffer; all of it is there when it is held."""

    buffer: memoryview
    is_held: bool


class BufferPool:
    """Places for as many threads as there are processors, to read and hash at.

    More at once would only push each other's bytes out of the processors' caches. For the same
    reason a desk comes with the buffer that was used last.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.LifoQueue[memoryview] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(new_buffer())

    def snapshot(self) -> memoryview:
        """Wait for a desk; return its buffer."""
        return self._free.get()

    def leave(self, buffer: memoryview) -> None:
        """Leave a desk with this buffer on it, whichever was there."""
        self._free.put(buffer)


class Reader:
    """One thread's place to read pieces in: a desk while it hashes, a buffer of its own else."""

    def __init__(self, desks: BufferPool) -> None:
        self._desks = desks
        self._own = new_buffer()
        self._at: memoryview | None = None

    def desk(self) -> memoryview:
        """Take a desk, or stay at the one that is taken; return its buffer."""
        if self._at is None:
            self._at = self._desks.snapshot()
        return self._at

    def leave(self, chunk: InABuffer | None = None) -> None:
        """Let others have the desk, if there is one; `chunk`, read there, is read on elsewhere.

        What the piece holds in the desk's buffer is taken along with it.
        """
        if self._at is None:
            return
        buffer, self._at = self._at, None
        if chunk is not None and chunk.is_held:
            buffer, self._own = self._own, buffer
        elif chunk is not None:
            chunk.buffer = self._own[:SENT_BYTES]
        self._desks.leave(buffer)


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
