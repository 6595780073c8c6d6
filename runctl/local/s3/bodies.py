"""The contents of objects, in files that exist for as long as something refers to them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A file takes at least one block.
_IN_MEMORY_BYTES = 4096


class _File:
    """A file of a content; it is deleted with the last object that refers to it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, start: int, size: int) -> bytes:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            found = os.pread(descriptor, size, start)
            while len(found) < size:  # one call reads 2 GiB at most
                more = os.pread(descriptor, size - len(found), start + len(found))
                if not more:
                    raise OSError(f"{self._path} is shorter than what was stored in it")
                found += more
            return found
        finally:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - modules may be gone while the process ends


@dataclass(frozen=True)
class _Span:
    """A range of a file, or of bytes in memory."""

    source: _File | bytes
    start: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`, counted from where the span begins."""
        first = self.start + start
        if isinstance(self.source, bytes):
            return self.source[first : first + size]
        return self.source.read(first, size)


class Body:
    """An unchangeable content on disk, as a sequence of spans.

    Copies, ranges and joined parts share the files of the contents that they come from.
    """

    __slots__ = ("_size", "spans")

    def __init__(self, spans: Iterable[_Span]) -> None:
        self.spans = tuple(spans)
        self._size = sum(span.size for span in self.spans)

    @classmethod
    def join(cls, parts: Iterable[bytes | Body]) -> Body:
        """Make one content of several, without reading them."""
        return cls(span for part in parts for span in _spans_of(part))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> Body:
        """Return a range of the content, without reading it."""
        start, stop, step = wanted.indices(self._size)
        if step != 1:
            raise ValueError("a content has ranges only")
        return Body(self._between(start, stop))

    def __bytes__(self) -> bytes:
        return b"".join(span.read(0, span.size) for span in self.spans)

    def __deepcopy__(self, _memo: Any) -> Body:
        return self

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the content in portions of at most `size` bytes."""
        for span in self.spans:
            for start in range(0, span.size, size):
                yield span.read(start, min(size, span.size - start))

    def _between(self, start: int, stop: int) -> Iterator[_Span]:
        position = 0
        for span in self.spans:
            first, last = max(start - position, 0), min(stop - position, span.size)
            if first < last:
                yield _Span(span.source, span.start + first, last - first)
            position += span.size


def _spans_of(part: bytes | Body) -> tuple[_Span, ...]:
    return part.spans if isinstance(part, Body) else (_Span(part, 0, len(part)),)


class BodyStore:
    """A folder of contents; what it contains when the store is made is deleted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = itertools.count()
        if folder.exists():  # left by a local cloud that was killed
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)

    def keep(self, content: bytes | Body) -> bytes | Body:
        """Write a content to a file; a short one, or one that is in files already, stays as it is.

        Raises OSError without leaving anything if the file cannot be written, as on a full disk.
        """
        if isinstance(content, Body) or len(content) <= _IN_MEMORY_BYTES:
            return content
        path = str(self._folder / f"{next(self._names):08d}")
        file = _File(path)  # deletes what is left after a failure
        with open(path, "xb", buffering=0) as stream:  # noqa: PTH123 - a Path per object is slow
            rest = memoryview(content)
            while rest:
                rest = rest[stream.write(rest) or 0 :]
        return Body([_Span(file, 0, len(content))])
