"""Files that are held open to write: logs, saves in progress, and what is never closed. Pure."""

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import timedelta

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.save_groups import save_of
from runctl.checkpoint.wholeness import Inspector

# A file that has been open for this long, and grows this slowly but again and again, is a log and
# not a save. One that hardly ever grows must be open for longer: a save may have got stuck.
LOG_AGE = timedelta(seconds=30)
LOG_GROWTHS = 5
IDLE_LOG_AGES = 10
LOG_BYTES_PER_SECOND = 64 * 1024
# Whole saves that a log has seen while it was open, and has grown in between.
LOG_REWRITES = 2
# A file that is open for longer, and is not written to in large pieces, is not just being saved.
LONG_OPEN = timedelta(seconds=10)
# Formats of which a reader can make nothing without the end, or their middle changes.
NO_LOGS = frozenset({"zip", "HDF5", "SQLite", ".npy", "Parquet", "Arrow", "safetensors"})


@dataclass(frozen=True)
class _Held:
    """A file that is held open to write: how it was at first, how it is, since when.

    `opened` is how it was when it was opened, whatever was done to it since. `rewrites` counts how
    often other files of its save were written anew meanwhile.
    """

    first: FileState
    last: FileState
    since: float
    opened: FileState
    opened_at: float
    growths: int = 0
    rewrites: int = 0


class OpenFiles:
    """Remembers from one look to another what is held open to write, and how it changes."""

    def __init__(self, log_age: timedelta, inspector: Inspector) -> None:
        self._log_age = log_age.total_seconds()
        self._inspector = inspector
        self._held: dict[str, _Held] = {}
        self.logs: frozenset[str] = frozenset()

    def note(self, view: FolderState, writing: Set[str], rewritten: Set[str], now: float) -> None:
        """Tell logs, which are open and appended to for long, from saves in progress.

        `rewritten` are the files that were written anew, or in place, since the last look.
        """
        held = {}
        for path in writing & view.keys():
            seen = view[path]
            earlier = self._held.get(path)
            if earlier is None or earlier.last.inode != seen.inode:
                earlier = _Held(seen, seen, now, seen, now)
            elif not only_grew(earlier.last, seen):
                earlier = replace(earlier, first=seen, last=seen, since=now, growths=0, rewrites=0)
            save = save_of(path)
            others = sum(save_of(other) == save for other in rewritten - {path})
            held[path] = replace(
                earlier,
                last=seen,
                growths=earlier.growths + (seen.size > earlier.last.size),
                rewrites=earlier.rewrites + others,
            )
        self._held = held
        self.logs = frozenset(path for path, one in held.items() if self._is_log(path, one, now))

    def never_closed(self, now: float) -> list[str]:
        """Return what is open for long, is no log, and is not written to as a large save is."""
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
        """Whether it has grown so far as a log would, and is not open for long enough."""
        return held.growths > 0 and now - held.since < self._log_age

    def _is_log(self, path: str, held: _Held, now: float) -> bool:
        age, needed = now - held.since, self._log_age
        slow = held.last.size - held.first.size <= LOG_BYTES_PER_SECOND * age
        steady = held.growths >= LOG_GROWTHS or age >= IDLE_LOG_AGES * needed
        # Whole saves have come and gone while it stayed open: it is no part of them.
        outlived = held.rewrites >= LOG_REWRITES and held.growths >= LOG_REWRITES
        if not (slow and (outlived or (age >= needed and steady))):
            return False
        verdict = self._inspector.verdict(path, held.last)
        return verdict is None or verdict.format not in NO_LOGS


def only_grew(earlier: FileState, later: FileState) -> bool:
    """Whether a file was appended to, or left alone, but not written anew or in place."""
    if earlier.inode != later.inode:
        return False
    return later.size > earlier.size or (
        later.size == earlier.size and later.mtime_ns == earlier.mtime_ns
    )
