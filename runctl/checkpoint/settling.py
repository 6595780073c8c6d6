"""The decision when the checkpoint folder holds something whole."""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import timedelta

from runctl.checkpoint.folder_state import FileState, FolderState, scan_folder
from runctl.checkpoint.open_files import LOG_AGE, OpenFiles, only_grew
from runctl.checkpoint.save_groups import NO_NUMBER, is_incomplete, place_of, save_of
from runctl.checkpoint.wholeness import Wholeness
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import CheckpointError

__all__ = [
    "ChangedError",
    "Contents",
    "FileState",
    "FolderState",
    "Settling",
    "Snapshot",
    "newest_saves",
    "scan_folder",
]

QUIET = timedelta(seconds=1)
LIMIT = timedelta(seconds=2)
# A group of several files that never rests counts as settled after this many limits.
MAX_UNSETTLED_LIMITS = 5
NONE: frozenset[str] = frozenset()

# What tiny files held when they were pinned, by inode.
Contents = Mapping[tuple[int, int], bytes]


class ChangedError(CheckpointError):
    """The folder changed while it was being read; a later scan may find it settled."""


@dataclass(frozen=True)
class Snapshot:
    """What may be saved now.

    `changed` is what differs from the previous checkpoint, apart from logs. `logs` are still being
    appended to: their prefix counts. `incomplete` has saves in progress, by the names that
    `save_of` gives them, and single paths: these stay as they are in the previous checkpoint. What
    was `recently_modified` may be overwritten in place at any moment. `contents` are the bytes of
    files that were read when the snapshot was pinned.
    """

    view: FolderState
    changed: tuple[str, ...]
    logs: frozenset[str] = frozenset()
    incomplete: frozenset[str] = frozenset()
    recently_modified: frozenset[str] = frozenset()
    contents: Contents = field(default_factory=dict)

    def is_incomplete(self, path: str) -> bool:
        """Return whether a path stays as it is in the previous checkpoint."""
        return is_incomplete(self.incomplete, path)

    def carried(self, before: Manifest | None) -> tuple[Entry, ...]:
        """Return the entries of the previous checkpoint for the saves that are left out."""
        if before is None or not self.incomplete:
            return ()
        return tuple(
            entry
            for entry in before.entries
            if self.is_incomplete(entry.path) and entry.path not in self.view
        )

    def lacks_save(self, number: int | None, scanned: FolderState, before: FolderState) -> bool:
        """Return whether it leaves out files of the save `number` that `before` does not have.

        `scanned` is the folder, and `before` the previous checkpoint.
        """
        return number is not None and any(
            self.is_incomplete(path) and path not in before and place_of(path).number == number
            for path in scanned
        )


@dataclass
class Settling:
    """Judges from one scan to the next whether the folder has settled. No I/O, no clock.

    `taken` is the folder as the last checkpoint holds it.
    """

    taken: FolderState
    quiet: timedelta = QUIET
    limit: timedelta = LIMIT
    log_age: timedelta = LOG_AGE
    wholeness: Wholeness = field(default_factory=Wholeness)
    _last: FolderState = field(default_factory=dict)
    _busy: frozenset[str] = frozenset()
    _changed_at: dict[str, float] = field(default_factory=dict)
    _pending_since: float | None = None
    _waited_since: float | None = None
    _open_files: OpenFiles = field(init=False)

    def __post_init__(self) -> None:
        self._last = dict(self.taken)
        self._open_files = OpenFiles(self.log_age, self.wholeness.inspector)

    @property
    def _logs(self) -> frozenset[str]:
        return self._open_files.logs

    def observe(
        self,
        folder_state: FolderState,
        writing: set[str],
        now: float,
        *,
        saved: bool = False,
        copies: Set[str] = NONE,
        held_back: Set[str] = NONE,
    ) -> Snapshot | None:
        """Record a scan of the folder; return a snapshot if something may be saved.

        `writing` are the files that the trainer held open for writing after the scan. `saved` means
        that the trainer's helper has just reported a finished save; if a checkpoint already holds
        it, it is saved once more, with nothing changed. `copies` are not the trainer's files but
        consistent copies of them, complete at every moment; `held_back` cannot be saved now,
        whatever their state.
        """
        self.watch_only(folder_state, writing, now, copies=copies)
        changed = self._changes(folder_state)
        if not _has_files(folder_state) or not (changed or saved):
            # A folder that was emptied or removed is not a checkpoint: the previous one stays
            # valid.
            self._pending_since = None
            return None
        if self._pending_since is None:
            self._pending_since = now
        is_quiet = saved or now - self._last_change() >= self.quiet.total_seconds()
        if not self._busy and is_quiet:
            return self._snapshot_of_complete(folder_state, changed, frozenset(held_back), now)
        if self.is_overdue(now):
            incomplete = self._unfinished(folder_state, changed, now) | held_back
            return self._snapshot_of_complete(folder_state, changed, incomplete, now)
        return None

    def watch_only(
        self, folder_state: FolderState, writing: set[str], now: float, *, copies: Set[str] = NONE
    ) -> None:
        """Record a scan of the folder while nothing may be saved."""
        rewritten = self._note_changes(folder_state, now, copies)
        self._open_files.note(folder_state, writing, rewritten, now)
        self._busy = frozenset(writing - self._logs)

    def is_overdue(self, now: float) -> bool:
        """Return whether something has waited for so long that what is complete may be saved."""
        waited = 0.0 if self._pending_since is None else now - self._pending_since
        return self._pending_since is not None and waited >= self.limit.total_seconds()

    def never_closed(self, now: float) -> list[str]:
        """Return files that are open for writing for long, are not logs, and delay the save."""
        return self._open_files.never_closed(now)

    def final(
        self,
        folder_state: FolderState,
        now: float,
        *,
        torn: frozenset[str],
        abrupt: bool,
        saved: bool = False,
        is_over: bool = False,
        databases: Set[str] = NONE,
        alive_at: float | None = None,
    ) -> Snapshot | None:
        """Judge the folder after the end of every process that wrote to it.

        `torn` were open for writing when their writer was killed: the saves that they belong to are
        left out, and stay as they are in the previous checkpoint. Everything else is closed and
        counts, however the trainer exited, unless something indicates that its save is incomplete.
        `abrupt` means that a writer died without an orderly exit, perhaps between two files of one
        save: then what was open at the last scan, or has changed within a moment, is left out too,
        unless a later save has followed it or its format shows that it is complete. `saved` means
        that the helper reported a save since the last snapshot, which may hold it already;
        `is_over` means that the program ended by itself and will not add to what it wrote.
        `databases` are complete however they were left, with their journals. `alive_at` is when the
        writers were last known to be alive, by default `now`: what happened to the folder later
        says nothing about them.
        """
        self._note_changes(folder_state, now, databases)
        paths = sorted({*folder_state, *self.taken})
        changed = [
            path for path in paths if not _same(folder_state.get(path), self.taken.get(path))
        ]
        until = now if alive_at is None else alive_at
        incomplete = self._cut_off(folder_state, changed, until, torn, abrupt=abrupt)
        if incomplete:
            # What was removed before the save that was cut off may be the only complete save.
            present = {save_of(path) for path in folder_state}
            incomplete |= {save_of(path) for path in self.taken} - present
        closed = [path for path in changed if not is_incomplete(incomplete, path)]
        incomplete |= self.wholeness.incomplete(
            folder_state, self.taken, closed, now, is_over=is_over and not abrupt
        )
        incomplete = self.wholeness.with_replaced(folder_state, self.taken, incomplete)
        complete = tuple(path for path in changed if not is_incomplete(incomplete, path))
        # If a save is left out, other removals alone are not worth a checkpoint.
        is_new = any(path in folder_state for path in complete) if incomplete else bool(complete)
        kept = {
            path: state
            for path, state in folder_state.items()
            if not is_incomplete(incomplete, path)
        }
        if not _has_files(kept) or not (is_new or saved):
            return None
        return replace(
            self._snapshot(folder_state, complete, incomplete, now),
            logs=frozenset(),
            recently_modified=frozenset(),
        )

    @property
    def seen(self) -> FolderState:
        """The folder at the last scan."""
        return self._last

    @property
    def is_pending(self) -> bool:
        """Whether something waits to be saved."""
        return self._pending_since is not None

    def changed_in(self, folder_state: FolderState) -> tuple[str, ...]:
        """Return what differs from the last checkpoint, apart from logs."""
        return self._changes(folder_state)

    def is_idle(self, folder_state: FolderState) -> bool:
        """Return whether nothing is new since the last scan, and nothing waits to be saved."""
        return self._pending_since is None and folder_state == self._last

    def forget_snapshot(self, before: FolderState, *, at_once: bool = False) -> None:
        """Undo a snapshot that could not be read completely.

        The folder has to settle again; with `at_once`, the time that it has been waited for still
        counts.
        """
        self.taken = before
        if at_once:
            self._pending_since = self._waited_since

    def _note_changes(self, folder_state: FolderState, now: float, copies: Set[str]) -> set[str]:
        """Record what changed and when; return files that were rewritten or changed in place."""
        rewritten = set()
        if len(self._changed_at) > 2 * len(folder_state) + 1000:  # names that appear and disappear
            kept = self.taken.keys() | folder_state.keys()
            self._changed_at = {path: at for path, at in self._changed_at.items() if path in kept}
        for path in {*folder_state, *self._last}:
            state, before = folder_state.get(path), self._last.get(path)
            if state != before:
                self._changed_at[path] = float("-inf") if path in copies else now
                if state is not None and before is not None and not only_grew(before, state):
                    rewritten.add(path)
        self._last = folder_state
        return rewritten

    def _changes(self, folder_state: FolderState) -> tuple[str, ...]:
        paths = {*folder_state, *self.taken} - self._logs
        return tuple(
            sorted(
                path for path in paths if not _same(folder_state.get(path), self.taken.get(path))
            )
        )

    def _last_change(self) -> float:
        times = [when for path, when in self._changed_at.items() if path not in self._logs]
        return max(times, default=float("-inf"))

    def _unfinished(
        self, folder_state: FolderState, changed: Iterable[str], now: float
    ) -> frozenset[str]:
        """Return the saves that are in progress, or may be.

        The files of one save share the number in their names; those without a number are saved
        together or not at all. A save is finished if none of it is open and it has been quiet, or
        if the program has moved on to a higher number. One that is never quiet is saved when none
        of it is open: at once if it is one file, otherwise only after a longer wait, since a
        program between two files of one save cannot be distinguished from one between two saves.
        """
        sizes = Counter(
            save_of(path)
            for path, state in folder_state.items()
            if state.kind == "file" and path not in self._logs
        )
        waited = now - (now if self._pending_since is None else self._pending_since)
        patient = waited >= MAX_UNSETTLED_LIMITS * self.limit.total_seconds()
        newest = newest_saves(folder_state)
        unfinished = {save_of(path) for path in self._busy}
        for path in changed:
            if path in folder_state and self._is_recent(path, now) and not patient:
                place = place_of(path)
                if place.save in newest and sizes[place.save] > 1:
                    unfinished.add(place.save)
        return frozenset(unfinished)

    def _cut_off(
        self,
        folder_state: FolderState,
        changed: Iterable[str],
        now: float,
        torn: frozenset[str],
        *,
        abrupt: bool,
    ) -> frozenset[str]:
        """Return the saves that their writer did not finish."""
        cut_off = set(torn)
        if abrupt:
            newest = newest_saves(folder_state)
            cut_off |= self._busy
            cut_off |= {
                path
                for path in changed
                if path in folder_state
                and folder_state[path].kind != "dir"
                and self._is_recent(path, now)
                and save_of(path) in newest
                and not self.wholeness.is_proven(path, folder_state[path])
            }
        return frozenset(save_of(path) for path in cut_off - self._logs)

    def _is_recent(self, path: str, now: float) -> bool:
        return now - self._changed_at.get(path, float("-inf")) < self.quiet.total_seconds()

    def _snapshot_of_complete(
        self,
        folder_state: FolderState,
        changed: tuple[str, ...],
        incomplete: frozenset[str],
        now: float,
    ) -> Snapshot | None:
        """Return a snapshot of what is complete, if it has something new."""
        closed = [path for path in changed if not is_incomplete(incomplete, path)]
        incomplete |= self.wholeness.incomplete(folder_state, self.taken, closed, now)
        if not incomplete:
            return self._snapshot(folder_state, changed, incomplete, now)
        incomplete = self.wholeness.with_replaced(folder_state, self.taken, incomplete)
        complete = tuple(path for path in closed if not is_incomplete(incomplete, path))
        if not any(path in folder_state and folder_state[path].kind != "dir" for path in complete):
            return None
        return self._snapshot(folder_state, complete, incomplete, now)

    def _snapshot(
        self,
        folder_state: FolderState,
        changed: tuple[str, ...],
        incomplete: frozenset[str],
        now: float,
    ) -> Snapshot:
        if incomplete:
            kept = {
                path: state for path, state in self.taken.items() if is_incomplete(incomplete, path)
            }
            fresh = {
                path: state
                for path, state in folder_state.items()
                if not is_incomplete(incomplete, path)
            }
            self.taken = {**fresh, **kept}
        else:
            fresh = self.taken = folder_state
        self._waited_since, self._pending_since = self._pending_since, None
        self.wholeness.remember(self.taken, changed)
        recently_modified = frozenset(
            path for path in changed if path in fresh and self._is_recent(path, now)
        )
        return Snapshot(fresh, changed, self._logs, incomplete, recently_modified - self._logs)


def newest_saves(folder_state: FolderState) -> set[str]:
    """Return the saves that no other has followed, along with everything without a number."""
    highest: dict[tuple[str, str], tuple[int, str]] = {}
    for path, state in folder_state.items():
        if state.kind != "dir":
            place = place_of(path)
            key = (place.parent, place.root)
            highest[key] = max(highest.get(key, (-1, "")), (place.number or 0, place.save))
    return {save for _, save in highest.values()} | {NO_NUMBER}


def _has_files(folder_state: FolderState) -> bool:
    return any(state.kind == "file" for state in folder_state.values())


def _same(one: FileState | None, other: FileState | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.kind == other.kind == "dir":
        return one.mode == other.mode  # its time changes with its content
    return one == other
