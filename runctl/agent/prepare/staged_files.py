"""The record of the input files that an instance has, which a later attempt there reuses."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any


class StagedFiles:
    """A file with a line for each staged input; lines that cannot be read are ignored.

    A line has the path, the object and its version, and the size and time of the file. Only their
    digests are in memory: there may be 50,000.
    """

    def __init__(self, record: Path, folder: Path) -> None:
        self._record = record
        self._folder = folder
        self._lock = threading.Lock()
        self._known = {path: _digest(facts) for path, facts, _ in self._lines()}

    def has(self, path: str, *, uri: str, etag: str, size_bytes: int) -> bool:
        """Whether a path below the folder has that version of an object, unchanged since."""
        if path not in self._known:
            return False
        with contextlib.suppress(OSError):
            found = os.lstat(self._folder / path)
            facts = [uri, etag, size_bytes, found.st_mtime_ns]
            is_whole = stat.S_ISREG(found.st_mode) and found.st_size == size_bytes
            return is_whole and self._known[path] == _digest(facts)
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
            for path, facts, line in self._lines():
                # The last line of a path is the one that counts.
                if path in files and self._known.get(path) == _digest(facts):
                    stream.write(line)
        fresh.replace(self._record)

    def _lines(self) -> Iterator[tuple[str, list[Any], str]]:
        with contextlib.suppress(OSError), self._record.open(errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(ValueError, TypeError):
                    path, *facts = json.loads(line)
                    yield str(path), facts, line


def _digest(facts: list[Any]) -> bytes:
    text = json.dumps(facts).encode()
    return hashlib.blake2b(text, digest_size=16).digest()


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
