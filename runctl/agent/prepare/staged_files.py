"""The record of the input files that an instance has, which a later attempt there reuses."""

import contextlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StagedFile:
    """A file as it was staged: from which object, at which version, and when it was written."""

    uri: str
    etag: str
    size_bytes: int
    modified_ns: int


class StagedFiles:
    """A file with a line for each staged input; lines that cannot be read are ignored."""

    def __init__(self, record: Path, folder: Path) -> None:
        self._record = record
        self._folder = folder
        self._lock = threading.Lock()
        self._known = dict(self._read())

    def has(self, path: str, *, uri: str, etag: str, size_bytes: int) -> bool:
        """Whether a path below the folder has that version of an object, unchanged since."""
        known = self._known.get(path)
        if known is None or (known.uri, known.etag, known.size_bytes) != (uri, etag, size_bytes):
            return False
        with contextlib.suppress(OSError):
            found = os.lstat(self._folder / path)
            is_file = stat.S_ISREG(found.st_mode)
            return is_file and (found.st_size, found.st_mtime_ns) == (size_bytes, known.modified_ns)
        return False

    def add(self, path: str, *, uri: str, etag: str) -> None:
        """Record a file that is in place."""
        found = os.lstat(self._folder / path)
        line = json.dumps([path, uri, etag, found.st_size, found.st_mtime_ns])
        with self._lock, self._record.open("a") as stream:
            stream.write(f"{line}\n")

    def keep_only(self, files: Mapping[str, object], folders: Set[str]) -> None:
        """Remove everything else from the folder, and forget it."""
        self._folder.mkdir(exist_ok=True)
        _remove_others(self._folder, "", files, folders)
        fresh = self._record.with_name(f"{self._record.name}.new")
        with fresh.open("w") as stream:
            for path, known in self._known.items():
                if path in files:
                    values = (path, known.uri, known.etag, known.size_bytes, known.modified_ns)
                    stream.write(f"{json.dumps(values)}\n")
        fresh.replace(self._record)

    def _read(self) -> Iterator[tuple[str, StagedFile]]:
        with contextlib.suppress(OSError), self._record.open(errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, TypeError):
                    path, uri, etag, size_bytes, modified_ns = json.loads(line)
                    yield str(path), StagedFile(uri, etag, size_bytes, modified_ns)


def _remove_others(folder: Path, prefix: str, files: Mapping[str, Any], folders: Set[str]) -> None:
    for item in os.scandir(folder):
        path = f"{prefix}{item.name}"
        if item.is_dir(follow_symlinks=False):
            if path in folders:
                _remove_others(Path(item.path), f"{path}/", files, folders)
            else:
                shutil.rmtree(item.path)
        elif path not in files or not item.is_file(follow_symlinks=False):
            Path(item.path).unlink()
