"""SQLite databases that the trainer holds open, each replaced by a consistent copy."""

import shutil
import time
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from runctl.beneath.folder import Folder
from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.sqlite_copy import SIDECARS, DatabaseError, copy_database

# Each copy becomes a checkpoint: soon at first, then at a rate that costs little.
FIRST_EVERY, MAX_EVERY = timedelta(seconds=5), timedelta(seconds=30)
COST_SHARE = 20
MAX_COPY_TIME = timedelta(seconds=5)
# A program may reopen its database for each transaction: a closed one may still be in use.
STILL_IN_USE = timedelta(seconds=10)
MAX_DATABASES = 100


class DatabaseFinder(Protocol):
    """Recognizes databases by their content."""

    def is_database(self, path: str) -> bool:
        """Return whether a file is an SQLite database, whatever its name."""


@dataclass(frozen=True)
class _Database:
    """A database in use: its last copy, the copied state, and when the next copy is due."""

    used_at: float
    every: float = FIRST_EVERY.total_seconds()
    due: float = float("-inf")
    state: tuple[FileState | None, ...] = ()
    copy: FileState | None = None


@dataclass(frozen=True)
class Replaced:
    """A folder's state in which copies replace open databases.

    `copies` are their paths; `held_back` are databases without a copy.
    """

    view: FolderState
    writing: set[str]
    copies: frozenset[str] = frozenset()
    held_back: frozenset[str] = frozenset()


class Databases:
    """Copies open databases at a bounded rate into a folder of our own."""

    def __init__(self, folder: Path, place: Path, finder: DatabaseFinder) -> None:
        self._folder = folder
        self._finder = finder
        self._used: dict[str, _Database] = {}
        self._at_rest: set[str] = set()
        self._has_begun = False
        self.place = place
        self.problems: dict[str, str] = {}

    def replace(
        self, folder_state: FolderState, writing: set[str], now: float, *, hurry: bool
    ) -> Replaced:
        """Replace databases in use by their copies, and drop their journals.

        With `hurry`, something else waits to be saved, and the copy should agree with it.
        """
        self._find(folder_state, writing, now)
        if not self._used:
            return Replaced(folder_state, writing)
        folder_state, writing = dict(folder_state), set(writing)
        copies, held_back = set(), set()
        for path in sorted(self._used):
            aside = [f"{path}{sidecar}" for sidecar in SIDECARS]
            state = tuple(
                folder_state.get(file) for file in (path, *aside) if not file.endswith("-shm")
            )
            database = self._refresh(path, state, now, hurry=hurry)
            writing -= {path, *aside}
            if database.copy is None:
                held_back |= {path, *aside}
                continue
            for journal in aside:
                folder_state.pop(journal, None)
            folder_state[path] = database.copy
            copies.add(path)
        return Replaced(folder_state, writing, frozenset(copies), frozenset(held_back))

    @property
    def paths(self) -> frozenset[str]:
        """The databases that are or were in use, with their journals."""
        paths = self._used.keys() | self._at_rest
        return frozenset(f"{path}{suffix}" for path in paths for suffix in ("", *SIDECARS))

    def at_rest(
        self, folder_state: FolderState, torn: frozenset[str]
    ) -> tuple[FolderState, frozenset[str]]:
        """Return the folder's state without what SQLite recreates, once no process uses it.

        A database that was open when its writer was killed is consistent with its journal.
        """
        owners = {path for path in {*torn, *self._used} if path in folder_state}
        found = {path for path in owners if path in self._used or self._finder.is_database(path)}
        # A journal may be open when its database is not: it still holds rows.
        for path in torn:
            for sidecar in SIDECARS:
                owner = path.removesuffix(sidecar)
                if owner != path and owner in folder_state and self._finder.is_database(owner):
                    found.add(owner)
        self._at_rest = found
        kept = {
            path: file_state
            for path, file_state in folder_state.items()
            if path.removesuffix("-shm") not in found
        }
        kept |= {path: folder_state[path] for path in found}
        return kept, torn - {f"{path}{suffix}" for path in found for suffix in ("", *SIDECARS)}

    def _find(self, folder_state: FolderState, writing: Set[str], now: float) -> None:
        """Record which databases are in use."""
        for path in writing & folder_state.keys():
            owner = next(
                (path.removesuffix(suffix) for suffix in SIDECARS if path.endswith(suffix)), path
            )
            file_state = folder_state.get(owner)
            if file_state is None or file_state.kind != "file" or not file_state.size:
                continue
            known = self._used.get(owner)
            if known is not None or (
                len(self._used) < MAX_DATABASES and self._finder.is_database(owner)
            ):
                self._used[owner] = replace(known or _Database(now), used_at=now)
        late = now - STILL_IN_USE.total_seconds()
        for path, database in list(self._used.items()):
            if path not in folder_state or (
                database.used_at < late and f"{path}-wal" not in folder_state
            ):
                del self._used[path]
                self.problems.pop(path, None)
                self._remove(database)

    def _refresh(
        self, path: str, state: tuple[FileState | None, ...], now: float, *, hurry: bool
    ) -> _Database:
        database = self._used[path]
        due = database.due
        if hurry and database.copy is not None:
            due = min(due, due - database.every + FIRST_EVERY.total_seconds())
        if state == database.state or now < due:
            return database
        began = time.monotonic()
        try:
            copy = self._copied(path)
        except DatabaseError as exc:
            self.problems[path] = (
                f"{path} is a database that is never closed, and cannot be copied while the "
                f"trainer runs: {exc}"
            )
            failed = replace(database, due=now + FIRST_EVERY.total_seconds())
            self._used[path] = failed
            return failed
        self.problems.pop(path, None)
        self._remove(database)
        every = max(database.every, COST_SHARE * (time.monotonic() - began))
        self._used[path] = replace(
            database,
            state=state,
            copy=copy,
            due=now + every,
            every=min(2 * database.every, MAX_EVERY.total_seconds()),
        )
        return self._used[path]

    def _copied(self, path: str) -> FileState:
        """Copy a database; before the first copy, remove what an earlier agent left behind."""
        if not self._has_begun:
            shutil.rmtree(self.place, ignore_errors=True)
            self._has_begun = True
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            fresh = self.place / "new"
            fresh.unlink(missing_ok=True)
            seconds = MAX_COPY_TIME.total_seconds()
            with Folder.opened(self._folder) as folder:
                copy_database(folder, path, fresh, self.place / "work", seconds=seconds)
            info = fresh.stat()
            inode = (info.st_dev, info.st_ino)
            mode = info.st_mode & 0o7777
            file_state = FileState("file", mode, info.st_mtime_ns, info.st_size, inode)
            fresh.rename(self.place / pin_name(file_state))
        except OSError as exc:
            raise DatabaseError(str(exc)) from exc
        return file_state

    def _remove(self, database: _Database) -> None:
        if database.copy is not None:
            (self.place / pin_name(database.copy)).unlink(missing_ok=True)
