"""When the checkpoint folder holds something whole."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from runctl.agent.steps import group_of
from runctl.model.errors import CheckpointError

QUIET = timedelta(seconds=1)
LIMIT = timedelta(seconds=2)
# A file that has been open for this long, and grows this slowly but again and again, is a log and
# not a save. One that hardly ever grows must be open for longer: a save may have got stuck.
LOG_AGE = timedelta(seconds=30)
LOG_GROWTHS = 5
IDLE_LOG_AGES = 10
LOG_BYTES_PER_SECOND = 64 * 1024

# Whole saves that a log has seen while it was open, and has grown in between.
LOG_REWRITES = 2
# How many limits a group of several files is waited for that is never quiet.
PATIENCE = 5


class ChangedError(CheckpointError):
    """The folder changed while it was being read; the next look may find it settled."""


@dataclass(frozen=True)
class Seen:
    """One file, folder or symbolic link, as a look at the folder found it."""

    kind: str
    mode: int
    mtime_ns: int
    size: int = 0
    inode: tuple[int, int] = (0, 0)
    target: str = ""


View = dict[str, Seen]


def look(folder: Path) -> View:
    """Return everything below `folder` by its relative path; what vanishes meanwhile is skipped."""
    view: View = {}
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            found = list(os.scandir(folder / below))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for item in found:
            path = f"{below}/{item.name}" if below else item.name
            try:
                seen = _seen(item)
            except FileNotFoundError:
                continue
            if seen is not None:
                view[path] = seen
                if seen.kind == "dir":
                    pending.append(path)
    return view


def _seen(item: "os.DirEntry[str]") -> Seen | None:
    # Not item.stat(): it may be answered from what the directory held a moment ago.
    info = os.lstat(item.path)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode):
        return Seen("link", mode, info.st_mtime_ns, target=str(Path(item.path).readlink()))
    if stat.S_ISDIR(info.st_mode):
        return Seen("dir", mode, info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        inode = (info.st_dev, info.st_ino)
        return Seen("file", mode, info.st_mtime_ns, info.st_size, inode)
    return None  # a socket or a pipe is no part of a checkpoint


@dataclass(frozen=True)
class Take:
    """What may be taken now.

    `changed` has what differs from the checkpoint before, logs apart. `logs` are still appended to:
    their prefix counts. `left_out` are units in which a save is still in progress. `hot` changed a
    moment ago and may be overwritten in place any moment.
    """

    view: View
    changed: tuple[str, ...]
    logs: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    hot: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Held:
    """A file that is held open to write: how it was at first, how it is, since when.

    `rewrites` counts how often other files of its group were written anew meanwhile.
    """

    first: Seen
    last: Seen
    since: float
    growths: int = 0
    rewrites: int = 0


@dataclass
class Settling:
    """Judges from one look after another whether the folder has settled. No I/O, no clock.

    `taken` is the folder as the last checkpoint holds it.
    """

    taken: View
    quiet: timedelta = QUIET
    limit: timedelta = LIMIT
    log_age: timedelta = LOG_AGE
    _last: View = field(default_factory=dict)
    _busy: frozenset[str] = frozenset()
    _logs: frozenset[str] = frozenset()
    _changed_at: dict[str, float] = field(default_factory=dict)
    _pending_since: float | None = None
    _waited_since: float | None = None
    _held: dict[str, _Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last = dict(self.taken)

    def observe(
        self, view: View, writing: set[str], now: float, *, saved: bool = False
    ) -> Take | None:
        """Take note of a look at the folder; return what may be taken, if anything.

        `writing` are the files that the trainer held open to write after the look. `saved` says
        that the trainer's helper has just told of a save that is in place; it may have been taken
        before that was told, and is then taken once more, with nothing changed.
        """
        self.watch_only(view, writing, now)
        changed = self._changes(view)
        if not _has_files(view) or not (changed or saved):
            # A folder that was emptied, or is gone, is no checkpoint: the one before it stands.
            self._pending_since = None
            return None
        if self._pending_since is None:
            self._pending_since = now
        if not self._busy and (saved or now - self._last_change() >= self.quiet.total_seconds()):
            return self._take(view, changed, frozenset(), now)
        if now - self._pending_since >= self.limit.total_seconds():
            left_out = self._unfinished_units(view, changed, now)
            complete = tuple(path for path in changed if unit_of(path) not in left_out)
            if any(view.get(path) for path in complete):
                return self._take(view, complete, left_out, now)
        return None

    def watch_only(self, view: View, writing: set[str], now: float) -> None:
        """Take note of a look at the folder while nothing may be taken."""
        rewritten = self._note_changes(view, now)
        self._note_held(view, writing, now, rewritten)
        self._busy = frozenset(writing - self._logs)

    def final(
        self,
        view: View,
        now: float,
        *,
        torn: frozenset[str],
        abrupt: bool,
        saved: bool = False,
    ) -> Take | None:
        """Judge the folder after the end of every process that wrote to it.

        `torn` were open to write when their writer was killed: the units that they belong to are
        left out, and stay as the checkpoint before has them. Everything else is closed and counts,
        however the trainer exited. `abrupt` says that a writer died without running its own exit,
        perhaps between two files of one save: then what was open at the last look, or has changed
        within a moment, is left out too. `saved` says that a save was told of since the last take,
        which may hold it already.
        """
        self._note_changes(view, now)
        paths = {*view, *self.taken}
        changed = [path for path in paths if not _same(view.get(path), self.taken.get(path))]
        left_out = self._unfinished_at_the_end(view, changed, now, torn, abrupt=abrupt)
        complete = tuple(sorted(path for path in changed if unit_of(path) not in left_out))
        # With a save left out, what else was only removed is no news.
        is_new = any(path in view for path in complete) if left_out else bool(complete)
        kept = {path: seen for path, seen in view.items() if unit_of(path) not in left_out}
        if not _has_files(kept) or not (is_new or saved):
            return None
        return replace(self._take(view, complete, left_out, now), logs=frozenset(), hot=frozenset())

    def is_idle(self, view: View) -> bool:
        """Whether nothing is new since the last look, and nothing waits to be taken."""
        return self._pending_since is None and view == self._last

    def forget_take(self, before: View, *, at_once: bool = False) -> None:
        """Undo a take that could not be read to its end.

        The folder has to settle anew, or is waited for anew; with `at_once` the time that it has
        been waited for still counts.
        """
        self.taken = before
        if at_once:
            self._pending_since = self._waited_since

    def _note_changes(self, view: View, now: float) -> set[str]:
        """Note what changed and when; return the files that were written anew, or in place."""
        rewritten = set()
        for path in {*view, *self._last}:
            seen, before = view.get(path), self._last.get(path)
            if seen != before:
                self._changed_at[path] = now
                if seen is not None and before is not None and not _only_grew(before, seen):
                    rewritten.add(path)
        self._last = view
        return rewritten

    def _note_held(self, view: View, writing: set[str], now: float, rewritten: set[str]) -> None:
        """Tell logs, which are open and appended to for long, from saves in progress."""
        held = {}
        for path in writing & view.keys():
            seen = view[path]
            earlier = self._held.get(path)
            if earlier is None or not _only_grew(earlier.last, seen):
                earlier = _Held(seen, seen, now)
            growths = earlier.growths + (seen.size > earlier.last.size)
            group = group_of(unit_of(path))
            others = sum(group_of(unit_of(other)) == group for other in rewritten - {path})
            rewrites = earlier.rewrites + others
            held[path] = _Held(earlier.first, seen, earlier.since, growths, rewrites)
        self._held = held
        self._logs = frozenset(path for path, one in held.items() if self._is_log(one, now))

    def _is_log(self, held: _Held, now: float) -> bool:
        age, needed = now - held.since, self.log_age.total_seconds()
        slow = held.last.size - held.first.size <= LOG_BYTES_PER_SECOND * age
        steady = held.growths >= LOG_GROWTHS or age >= IDLE_LOG_AGES * needed
        # Whole saves have come and gone while it stayed open: it is no part of them.
        outlived = held.rewrites >= LOG_REWRITES and held.growths >= LOG_REWRITES
        return slow and (outlived or (age >= needed and steady))

    def _changes(self, view: View) -> tuple[str, ...]:
        paths = {*view, *self.taken} - self._logs
        return tuple(
            sorted(path for path in paths if not _same(view.get(path), self.taken.get(path)))
        )

    def _last_change(self) -> float:
        times = [when for path, when in self._changed_at.items() if path not in self._logs]
        return max(times, default=float("-inf"))

    def _unfinished_units(self, view: View, changed: Iterable[str], now: float) -> frozenset[str]:
        """Return the top-level names that a save in progress writes, or may still write.

        The files of one save share the number in their names; those without one are taken
        together or not at all. A group is finished when none of it is open and it has been quiet,
        or when the program has gone on to a higher number. A group that is never quiet is taken
        when none of it is open: at once when it is one file, else only after a longer wait, since
        a program between two files of one save cannot be told from one between two saves.
        """
        busy = {group_of(unit_of(path)) for path in self._busy}
        units = {unit_of(path) for path in {*view, *self._busy}}
        highest = max((group for unit in units if (group := group_of(unit)) is not None), default=0)
        sizes = Counter(
            group_of(unit_of(path))
            for path, seen in view.items()
            if seen.kind == "file" and path not in self._logs
        )
        waited = now - (now if self._pending_since is None else self._pending_since)
        patient = waited >= PATIENCE * self.limit.total_seconds()
        unfinished = set(busy)
        for path in changed:
            group = group_of(unit_of(path))
            recent = now - self._changed_at.get(path, float("-inf")) < self.quiet.total_seconds()
            newest = group is None or group == highest
            if recent and path in view and newest and sizes[group] > 1 and not patient:
                unfinished.add(group)
        return frozenset(unit for unit in units if group_of(unit) in unfinished)

    def _unfinished_at_the_end(
        self, view: View, changed: Iterable[str], now: float, torn: frozenset[str], *, abrupt: bool
    ) -> frozenset[str]:
        """Return the top-level names that hold a save which its writer did not finish.

        Saves that it removed meanwhile are among them: they may be all that there is.
        """
        cut_off = torn - self._logs
        if abrupt:
            quiet = self.quiet.total_seconds()
            cut_off |= self._busy
            cut_off |= {
                path
                for path in changed
                if path in view and now - self._changed_at.get(path, float("-inf")) < quiet
            }
            cut_off -= self._logs
        groups = {group_of(unit_of(path)) for path in cut_off}
        if not groups:
            return frozenset()
        units = {unit_of(path) for path in {*view, *cut_off}}
        removed = {unit_of(path) for path in self.taken} - units
        return frozenset(unit for unit in units if group_of(unit) in groups) | removed

    def _take(
        self, view: View, changed: tuple[str, ...], left_out: frozenset[str], now: float
    ) -> Take:
        kept = {path: seen for path, seen in self.taken.items() if unit_of(path) in left_out}
        fresh = {path: seen for path, seen in view.items() if unit_of(path) not in left_out}
        self.taken = {**fresh, **kept}
        self._waited_since, self._pending_since = self._pending_since, None
        hot = frozenset(
            path
            for path in fresh
            if now - self._changed_at.get(path, float("-inf")) < self.quiet.total_seconds()
        )
        return Take(fresh, changed, self._logs, left_out, hot - self._logs)


def _only_grew(earlier: Seen, later: Seen) -> bool:
    """Whether a file was appended to, or left alone, but not written anew or in place."""
    if earlier.inode != later.inode:
        return False
    return later.size > earlier.size or (
        later.size == earlier.size and later.mtime_ns == earlier.mtime_ns
    )


def _has_files(view: View) -> bool:
    return any(seen.kind == "file" for seen in view.values())


def unit_of(path: str) -> str:
    """Return the top-level name that a path is below."""
    return path.partition("/")[0]


def _same(one: Seen | None, other: Seen | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.kind == other.kind == "dir":
        return one.mode == other.mode  # its time changes with what is in it
    return one == other
