"""A chunk is recognized only if it is the same to the last byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.checkpoint import fingerprint
from runctl.checkpoint.chunks import Chunk, new_buffer
from runctl.checkpoint.fingerprint import ChunkIndex, Poly1305

SIZE = 4096


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "CHUNK_BYTES", SIZE)
    monkeypatch.setattr("runctl.checkpoint.chunks.BUFFER_BYTES", SIZE // 4)


class CountedChunks:
    """A file of chunks, and a count of those that were hashed."""

    def __init__(self, path: Path, index: ChunkIndex, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.index = index
        self.hashed = 0
        real = ChunkIndex._hash

        def hash_and_count(*arguments: object) -> object:
            self.hashed += 1
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(ChunkIndex, "_hash", hash_and_count)

    def save(self, *contents: bytes) -> int:
        """Identify the chunks as a save does; return how many of them were hashed."""
        self.path.write_bytes(b"".join(contents))
        self.index.begin()
        before = self.hashed
        for content, chunk in zip(contents, self.chunks(len(contents)), strict=True):
            part = self.index.identify(chunk)
            assert part.sha256 == hashlib.sha256(content).hexdigest()
            assert part.size_bytes == len(content)
        return self.hashed - before

    def chunks(self, count: int) -> Iterator[Chunk]:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            for number in range(count):
                yield Chunk("a", descriptor, number * SIZE, SIZE, buffer=new_buffer())
        finally:
            os.close(descriptor)


@pytest.fixture
def chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountedChunks:
    return CountedChunks(tmp_path / "file", ChunkIndex(), monkeypatch)


A, B, C, D = (bytes([number]) * SIZE for number in range(4))


def test_only_what_the_last_save_did_not_hold_is_hashed(chunks: CountedChunks) -> None:
    assert chunks.save(A, B, C) == 3
    assert chunks.save(A, C, D) == 1
    assert chunks.save(C, A, A) == 0  # wherever it lies
    assert chunks.save(C, A, D) == 1  # D was in the save before the last


def test_after_a_change_chunks_are_hashed_directly_until_one_is_known(
    chunks: CountedChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks.save(A, B, C, A)
    readings = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: readings.append(args[2]) or real(*args))

    def chunks_read(*contents: bytes) -> list[int]:
        readings.clear()
        chunks.save(*contents)
        return [offset // SIZE for offset in readings if offset % SIZE == 0]

    # The first was looked up and then hashed; of the others, only the last could be looked up.
    assert chunks_read(D, D, B, A) == [0, 0, 1, 2, 3]
    assert chunks.save(D, D, B, A) == 0
    # Looked up once in each save that has nothing in common with the previous one.
    assert chunks_read(C, C, C, C) == [0, 0, 1, 2, 3]
    assert chunks_read(D, B, B, B) == [0, 0, 1, 2, 3]


@given(
    saves=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=6),
    flipped=st.integers(0, SIZE - 1),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_part_always_matches_the_bytes_exactly(
    chunks: CountedChunks, saves: list[list[int]], flipped: int
) -> None:
    other = bytearray(A)
    other[flipped] ^= 1
    contents = (A, B, C, bytes(other))
    for save in saves:
        chunks.save(*(contents[number] for number in save))


def test_file_that_changes_between_lookup_and_hash_spoils_no_later_lookup(
    chunks: CountedChunks, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks.save(A)
    real = os.preadv
    read = 0

    def change_after_the_first_reading(*arguments: object) -> int:
        nonlocal read
        count = real(*arguments)  # type: ignore[arg-type]
        read += count
        if read == SIZE:
            chunks.path.write_bytes(C)
        return count

    chunks.path.write_bytes(B)
    chunks.index.begin()
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", change_after_the_first_reading)
        for chunk in chunks.chunks(1):
            assert chunks.index.identify(chunk).sha256 == hashlib.sha256(C).hexdigest()
    chunks.save(B)


@pytest.mark.parametrize("lacking", ["libcrypto.so.3", "EVP_MAC_fetch"])
def test_everything_is_hashed_where_openssl_cannot_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def load(_name: str) -> object:
        if lacking == "EVP_MAC_fetch":
            return object()
        raise OSError(f"{lacking}: cannot open shared object file")

    monkeypatch.setattr(fingerprint.ctypes, "CDLL", load)
    chunks = CountedChunks(tmp_path / "file", ChunkIndex(), monkeypatch)
    assert [chunks.save(A, B), chunks.save(A, B)] == [2, 2]


def test_algorithm_missing_from_openssl_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "ALGORITHM", b"NO-SUCH-MAC")
    with pytest.raises(OSError, match="no Poly1305"):
        Poly1305()


def test_tag_depends_on_the_bytes_and_the_key_but_not_on_how_the_bytes_are_divided() -> None:
    first, second = Poly1305(), Poly1305()

    def tag(origin: Poly1305, *chunks: bytes) -> bytes:
        made = origin.new()
        for chunk in chunks:
            made.update(memoryview(bytearray(chunk)))
        return made.digest()

    assert tag(first, A, B) == tag(first, A[:100], A[100:] + B) != tag(first, B, A)
    assert tag(first, A) != tag(second, A)


def test_tag_agrees_with_the_example_of_rfc_8439() -> None:
    origin = Poly1305()
    origin.key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    made = origin.new()
    made.update(memoryview(bytearray(b"Cryptographic Forum Research Group")))
    assert made.digest().hex() == "a8061dc1305136c6c22b8baf0c0127a9"
