"""An inspector that reads the files of a checkpoint folder as little and as seldom as possible."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from runctl.beneath.folder import Folder
from runctl.beneath.paths import open_folder
from runctl.checkpoint.folder_state import FileState
from runctl.checkpoint.formats import MAX_READ_BYTES, Source, Verdict, judge
from runctl.checkpoint.torch_records import MAX_METADATA_BYTES, named_records

SQLITE = b"SQLite format 3\0"
# Remembering more files than this would cost more memory than it saves.
MAX_REMEMBERED = 20_000
BLOCK_BYTES = 1024 * 1024

T = TypeVar("T")
Identity = tuple[tuple[int, int], int, int]


class Inspector:
    """Reads the beginnings and ends of files, once per file until the file changes.

    A file that cannot be read, or that changed since the scan, has no verdict and no text.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._folder: Folder | None = None
        self._identity = 0, 0
        self._close: Callable[[], object] = lambda: None
        self._verdicts: dict[Identity, Verdict | None] = {}
        self._texts: dict[Identity, str] = {}
        self._records: dict[Identity, frozenset[str]] = {}

    def verdict(self, path: str, file_state: FileState) -> Verdict | None:
        """Return the verdict of the file's format."""
        key = _identity(file_state)
        if key not in self._verdicts:
            with suppress(OSError), self._opened(path, file_state) as file:
                source = Source(
                    path, file_state.size, lambda at, length: os.pread(file, length, at)
                )
                _remember(self._verdicts, key, judge(source))
        return self._verdicts.get(key)

    def text(self, path: str, file_state: FileState) -> str:
        """Return the beginning of a small text file."""
        key = _identity(file_state)
        if key not in self._texts:
            with suppress(OSError), self._opened(path, file_state) as file:
                content = os.pread(file, MAX_READ_BYTES, 0)
                _remember(self._texts, key, content.decode("utf-8", errors="replace"))
        return self._texts.get(key, "")

    def records(self, path: str, file_state: FileState) -> frozenset[str]:
        """Return the records that a `.metadata` of torch.distributed.checkpoint names."""
        key = _identity(file_state)
        if key not in self._records and file_state.size <= MAX_METADATA_BYTES:
            with suppress(OSError), self._opened(path, file_state) as file:
                offsets = range(0, file_state.size, BLOCK_BYTES)
                found = named_records(os.pread(file, BLOCK_BYTES, offset) for offset in offsets)
                _remember(self._records, key, found)
        return self._records.get(key, frozenset())

    def is_database(self, path: str) -> bool:
        """Return whether a file is an SQLite database, whatever its name."""
        with suppress(OSError):
            file = self._root().open(path)
            try:
                return os.pread(file, len(SQLITE), 0) == SQLITE
            finally:
                os.close(file)
        return False

    @contextmanager
    def _opened(self, path: str, file_state: FileState) -> Iterator[int]:
        file = self._root().open(path)
        try:
            info = os.fstat(file)
            if ((info.st_dev, info.st_ino), info.st_size, info.st_mtime_ns) != _identity(
                file_state
            ):
                raise FileNotFoundError(path)
            yield file
        finally:
            os.close(file)

    def _root(self) -> Folder:
        """Return the folder, which stays open as long as its path leads to it."""
        if self._folder is not None:
            info = os.stat(self._folder.path)  # noqa: PTH116 - for each file
            if (info.st_dev, info.st_ino) == self._identity:
                return self._folder
            self._close()
            self._folder = None
        folder = Folder(open_folder(self._path), str(self._path))
        self._folder, self._close = folder, weakref.finalize(self, folder.close)
        info = os.fstat(folder.descriptor)
        self._identity = info.st_dev, info.st_ino
        return folder


def _identity(file_state: FileState) -> Identity:
    return file_state.inode, file_state.size, file_state.mtime_ns


def _remember(known: dict[Identity, T], key: Identity, value: T) -> None:
    if len(known) >= MAX_REMEMBERED:
        known.clear()
    known[key] = value
