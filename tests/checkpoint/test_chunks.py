"""Buffers for chunks: few threads read at a time, and a chunk that is held does not change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.checkpoint import chunks
from runctl.checkpoint.chunks import BufferPool, Chunk, Reader
from runctl.checkpoint.settling import ChangedError

HELD = 4096


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BUFFER_BYTES", HELD)
    monkeypatch.setattr(chunks, "SENT_BYTES", HELD // 4)


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(b"a" * HELD + b"b" * HELD + b"c" * HELD)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def content(chunk: Chunk) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunk)


def test_a_held_chunk_is_not_overwritten_by_the_next_one(
    descriptor: int,
) -> None:
    pool = BufferPool(1)
    one, other = Reader(pool), Reader(pool)
    first = Chunk("file", descriptor, 0, HELD, buffer=one.acquire())
    content(first)
    one.release(first)
    content(Chunk("file", descriptor, HELD, HELD, buffer=other.acquire()))
    assert first.is_held
    assert content(first) == b"a" * HELD
    other.release()
    # The reader's own buffer holds the first chunk now; the next one is read into another.
    content(Chunk("file", descriptor, 2 * HELD, HELD, buffer=one.acquire()))
    assert content(first) == b"a" * HELD


def test_a_large_chunk_is_read_again_into_another_buffer(
    descriptor: int,
) -> None:
    pool = BufferPool(1)
    reader = Reader(pool)
    buffer = reader.acquire()
    large = Chunk("file", descriptor, 0, 3 * HELD, buffer=buffer)
    content(large)
    reader.release(large)
    assert Reader(pool).acquire() is buffer
    buffer[:] = b"x" * HELD
    assert content(large) == b"a" * HELD + b"b" * HELD + b"c" * HELD
    assert bytes(buffer) == b"x" * HELD


def test_no_more_threads_read_at_once_than_there_are_buffers() -> None:
    pool = BufferPool(1)
    first, second = Reader(pool), Reader(pool)
    assert first.acquire() is first.acquire()
    has_one = threading.Event()

    def wait() -> None:
        second.acquire()
        has_one.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not has_one.wait(0.05)
    first.release()
    first.release()
    assert has_one.wait(10)
    thread.join()
    assert pool._free.empty()


def test_a_file_that_became_shorter_is_reported(descriptor: int) -> None:
    chunk = Chunk("weights.bin", descriptor, HELD, 3 * HELD, buffer=Reader(BufferPool(1)).acquire())
    with pytest.raises(ChangedError, match=r"weights\.bin became shorter"):
        content(chunk)
