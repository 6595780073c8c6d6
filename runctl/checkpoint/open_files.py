"""Files that are open for writing: logs, saves in progress, and those never closed. Pure."""

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import timedelta

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.save_groups import save_of
from runctl.checkpoint.wholeness import Inspector

# A file that has been open for this long and keeps growing this slowly is a log, not a save. One
# that hardly ever grows must be open for longer: a save may be stuck.
LOG_AGE = timedelta(seconds=30)
LOG_GROWTHS = 5
IDLE_LOG_AGES = 10
LOG_BYTES_PER_SECOND = 64 * 1024
# Complete saves that came and went while a log was open and growing.
LOG_REWRITES = 2
# A file that has been open for longer, and is not written in large blocks, is not a save in
# progress.
LONG_OPEN = timedelta(seconds=10)
# Formats that are unreadable without their end, or whose middle changes.
NO_LOGS = frozenset({"zip", "HDF5", "SQLite", ".npy", "Parquet", "Arrow", "safetensors"})


@dataclass(frozen=True)
class _Held:
    """A file that is open for writing: its state at first and now, and since when it has been open.

    `opened` is its state when it was opened, whatever happened to it since. `rewrites` counts how
    often other files of its save were rewritten meanwhile.
    """

    first: FileState
    last: FileState
    since: float
    opened: FileState
    opened_at: float
    growths: int = 0
    rewrites: int = 0


class OpenFiles:
    """Remembers between scans which files are open for writing, and how they change."""

    def __init__(self, log_age: timedelta, inspector: Inspector) -> None:
        self._log_age = log_age.total_seconds()
        self._inspector = inspector
        self._held: dict[str, _Held] = {}
        self.logs: frozenset[str] = frozenset()

    def note(
        self, folder_state: FolderState, writing: Set[str], rewritten: Set[str], now: float
    ) -> None:
        """Distinguish logs, which are open and appended to for long, from saves in progress.

        `rewritten` are the files that were rewritten, or changed in place, since the last scan.
        """
        held = {}
        for path in writing & folder_state.keys():
            file_state = folder_state[path]
            earlier = self._held.get(path)
            if earlier is None or earlier.last.inode != file_state.inode:
                earlier = _Held(file_state, file_state, now, file_state, now)
            elif not only_grew(earlier.last, file_state):
                earlier = replace(
                    earlier, first=file_state, last=file_state, since=now, growths=0, rewrites=0
                )
            save = save_of(path)
            others = sum(save_of(other) == save for other in rewritten - {path})
            held[path] = replace(
                earlier,
                last=file_state,
                growths=earlier.growths + (file_state.size > earlier.last.size),
                rewrites=earlier.rewrites + others,
            )
        self._held = held
        self.logs = frozenset(path for path, file in held.items() if self._is_log(path, file, now))

    def never_closed(self, now: float) -> list[str]:
        """Return files open for long that are not logs and are not written like a large save."""
        return sorted(
            path
            for path, held in self._held.items()
            if path not in self.logs
            and now - held.opened_at >= LONG_OPEN.total_seconds()
            and abs(held.last.size - held.opened.size)
            <= LOG_BYTES_PER_SECOND * (now - held.opened_at)
            and not self._may_be_log(held, now)
        )

    def _may_be_log(self, held: _Held, now: float) -> bool:
        """Return whether it has grown like a log so far, but has not been open for long enough."""
        return held.growths > 0 and now - held.since < self._log_age

    def _is_log(self, path: str, held: _Held, now: float) -> bool:
        age, needed = now - held.since, self._log_age
        slow = held.last.size - held.first.size <= LOG_BYTES_PER_SECOND * age
        steady = held.growths >= LOG_GROWTHS or age >= IDLE_LOG_AGES * needed
        # Complete saves came and went while it stayed open, so it does not belong to them.
        outlived = held.rewrites >= LOG_REWRITES and held.growths >= LOG_REWRITES
        if not (slow and (outlived or (age >= needed and steady))):
            return False
        verdict = self._inspector.verdict(path, held.last)
        return verdict is None or verdict.format not in NO_LOGS


def only_grew(earlier: FileState, later: FileState) -> bool:
    """Return whether a file was appended to or left alone, not rewritten or changed in place."""
    if earlier.inode != later.inode:
        return False
    return later.size > earlier.size or (
        later.size == earlier.size and later.mtime_ns == earlier.mtime_ns
    )
