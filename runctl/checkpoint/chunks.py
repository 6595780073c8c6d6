"""Chunks of files, read in small steps so that memory stays small and caches warm."""

import contextlib
import mmap
import os
import queue
from collections.abc import Callable, Iterator
from typing import Protocol

from runctl.checkpoint.settling import ChangedError, FileState

# Opens a file of a snapshot, by its path and state; FileNotFoundError if it is gone or replaced.
OpenFile = Callable[[str, FileState], int]

CHUNK_BYTES = 8 * 1024 * 1024
# Bytes per read. With much less, more calls are needed; with much more, the data leaves the
# processor's cache before it is used. A chunk that is no larger is read once and kept until it is
# sent.
BUFFER_BYTES = 1024 * 1024
# The same for sending: many threads send at once, and a socket accepts less at a time.
SENT_BYTES = 512 * 1024


def new_buffer() -> memoryview:
    """Return an empty buffer to read into.

    It begins on a page boundary: the kernel copies to one a quarter faster than to a bytearray.
    """
    return memoryview(mmap.mmap(-1, BUFFER_BYTES))


class Chunk:
    """A range of an open file; each iteration reads it from its beginning.

    Raises ChangedError if the file became shorter.
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
                raise ChangedError(f"{self.name} became shorter while it was being read")
            self.is_held = count == self.size_bytes
            yield room[:count]
            done += count


class InABuffer(Protocol):
    """A chunk that was read into a buffer; all of it is there if `is_held`."""

    buffer: memoryview
    is_held: bool


class BufferPool:
    """Buffers to read and hash in, for as many threads as there are processors.

    More at once would only evict each other's data from the processors' caches. For the same reason
    the buffer that was used last is acquired next.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.LifoQueue[memoryview] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(new_buffer())

    def acquire(self) -> memoryview:
        """Wait for a free buffer and return it."""
        return self._free.get()

    def release(self, buffer: memoryview) -> None:
        """Return a buffer to the pool; it need not be the one that was acquired."""
        self._free.put(buffer)


class Reader:
    """One thread's buffers: one from the pool while it hashes, otherwise its own."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._own = new_buffer()
        self._at: memoryview | None = None

    def acquire(self) -> memoryview:
        """Acquire a buffer from the pool, unless one is held, and return it."""
        if self._at is None:
            self._at = self._pool.acquire()
        return self._at

    def release(self, chunk: InABuffer | None = None) -> None:
        """Release the pool's buffer, if one is held; `chunk`, which is in it, is still read.

        A chunk that is held keeps its buffer, and the pool gets the reader's own instead.
        """
        if self._at is None:
            return
        buffer, self._at = self._at, None
        if chunk is not None and chunk.is_held:
            buffer, self._own = self._own, buffer
        elif chunk is not None:
            chunk.buffer = self._own[:SENT_BYTES]
        self._pool.release(buffer)


@contextlib.contextmanager
def opened(path: str, file_state: FileState, open_file: OpenFile) -> Iterator[int]:
    """Open a file of a snapshot; raise ChangedError if it is gone."""
    try:
        descriptor = open_file(path, file_state)
    except FileNotFoundError as exc:
        raise ChangedError(f"{path} was removed while it was being read") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)
