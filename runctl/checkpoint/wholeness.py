"""Whether the saves in a folder are complete, judged by predecessors, formats and layouts.

Pure: files are read through a port, and time is passed in.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.formats import Verdict
from runctl.checkpoint.layouts import Flaw, Scope, flaws_of, names_save, temporary_of_orbax
from runctl.checkpoint.predecessors import Series, expected_of, flaws_without_number, saves_in
from runctl.checkpoint.save_groups import NO_NUMBER, place_of, save_of

# After this long, something missing counts as intended by the program.
MIN_MISSING_TIME = timedelta(minutes=1)
# A save may take this many times as long as its predecessors took from first to last file.
SPREADS = 5
MAX_MISSING_TIME = timedelta(minutes=30)
# A flaw that lasts this long is reported to people.
WORTH_SAYING = timedelta(seconds=20)
MAX_CLOCKS = 1000
SMALL_TEXT = 4096
MAX_POINTER_FILES = 50
POINTER = re.compile(r"(?:^|/)[^./]*(?:\.(?:txt|json|ya?ml))?$")


class Inspector(Protocol):
    """What can be read from files."""

    def verdict(self, path: str, file_state: FileState) -> Verdict | None:
        """Return the verdict of the file's format."""

    def text(self, path: str, file_state: FileState) -> str:
        """Return the content of a small text file."""

    def records(self, path: str, file_state: FileState) -> frozenset[str]:
        """Return the records that a `.metadata` of torch.distributed.checkpoint names."""


class Blind:
    """An inspector that reads no files."""

    def verdict(self, path: str, file_state: FileState) -> Verdict | None:
        """Return None."""
        del path, file_state
        return None

    def text(self, path: str, file_state: FileState) -> str:
        """Return an empty text."""
        del path, file_state
        return ""

    def records(self, path: str, file_state: FileState) -> frozenset[str]:
        """Return no names."""
        del path, file_state
        return frozenset()


@dataclass(frozen=True)
class _Clock:
    """Since when a flaw has existed, and in which save it first appeared."""

    since: float
    number: int


@dataclass
class Wholeness:
    """Finds incomplete saves, and remembers for how long they have been incomplete.

    On one node of several, as `scope` says, `given` are the files that it was restored with. Those
    that are still as they were are perhaps another node's, so what is saved after them is not
    compared with them.
    """

    inspector: Inspector = field(default_factory=Blind)
    scope: Scope = Scope.WHOLE
    given: FolderState = field(default_factory=dict)
    problems: dict[str, tuple[float, str]] = field(default_factory=dict)
    _clocks: dict[str, _Clock] = field(default_factory=dict)
    _expected: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _tolerated: dict[str, str] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)

    def incomplete(
        self,
        folder_state: FolderState,
        previous: FolderState,
        changed: Iterable[str],
        now: float,
        *,
        is_over: bool = False,
    ) -> frozenset[str]:
        """Return what is to be left out: names of saves, and single paths with what is below them.

        `changed` are the closed files that differ from those in `previous`. With `is_over`, the
        program has ended by itself: what it has not written by then is not missing.
        """
        fresh = [
            path for path in changed if path in folder_state and folder_state[path].kind == "file"
        ]
        flaws = list(self._flaws(folder_state, previous, fresh)) if fresh else []
        self._keep_time(flaws, now)
        self.problems = {}
        incomplete = set()
        for flaw in flaws:
            since = self._clocks[flaw.about].since
            if not flaw.is_certain and (is_over or now - since >= _allowed_time(previous, flaw)):
                self._tolerated[flaw.about] = flaw.reason
                continue
            incomplete.add(_what(flaw, now - since))
            self.problems[flaw.about] = (since, flaw.reason)
        return frozenset(incomplete | self._pointers(folder_state, fresh, incomplete))

    def with_replaced(
        self, folder_state: FolderState, previous: FolderState, incomplete: frozenset[str]
    ) -> frozenset[str]:
        """Return also what an incomplete save has replaced: there may be no other complete save."""
        numbered = {name for name in incomplete if "\0" in name and name != NO_NUMBER}
        if not numbered:
            return incomplete
        before = saves_in(previous, {name.partition("\0")[0] for name in numbered})
        after = saves_in(folder_state, {name.partition("\0")[0] for name in numbered})
        removed = set()
        for name in numbered:
            save = after.get(name) or before.get(name)
            if save is None:
                continue
            alike = [
                other
                for other, other_save in after.items()
                if other_save.parent == save.parent
                and other_save.roots & save.roots
                and other not in incomplete
            ]
            if not alike:
                removed |= {
                    other
                    for other, other_save in before.items()
                    if other_save.parent == save.parent
                    and other_save.roots & save.roots
                    and other not in after
                }
        return incomplete | removed

    def remember(self, previous: FolderState, changed: Iterable[str]) -> None:
        """Remember what complete saves consist of, for when none of them is left."""
        places = [place_of(path) for path in changed]
        parents = {place.parent for place in places if place.number is not None}
        saves = saves_in(self._own(previous), parents)
        found: dict[tuple[str, str], frozenset[str]] = {}
        for save in saves.values():
            members = expected_of(save)
            for root in save.roots:
                key = (save.parent, root)
                found[key] = found.get(key, members) & members
        self._expected.update(found)

    @property
    def reasons(self) -> list[str]:
        """Why something is left out, as of the last scan."""
        return sorted({reason for _, reason in self.problems.values()})

    def lasting_problems(self, now: float) -> list[str]:
        """Return what has been incomplete for so long that it is reported to people."""
        late = now - WORTH_SAYING.total_seconds()
        return sorted({reason for since, reason in self.problems.values() if since <= late})

    def newly_tolerated(self) -> list[str]:
        """Return the flaws that count as intended from now on, each of them once."""
        tolerated = dict(self._tolerated)
        new = [reason for about, reason in sorted(tolerated.items()) if about not in self._logged]
        self._logged = (
            (self._logged | tolerated.keys()) if len(self._logged) < MAX_CLOCKS else set(tolerated)
        )
        self._tolerated = {}
        return new

    def is_proven(self, path: str, file_state: FileState) -> bool:
        """Return whether the file's format shows that it is complete."""
        verdict = self.inspector.verdict(path, file_state)
        return verdict is not None and verdict.is_proven

    def _flaws(
        self, folder_state: FolderState, previous: FolderState, fresh: list[str]
    ) -> Iterator[Flaw]:
        def text(path: str) -> str:
            return self.inspector.text(path, folder_state[path]) if path in folder_state else ""

        def records(path: str) -> frozenset[str]:
            known = path in folder_state
            return self.inspector.records(path, folder_state[path]) if known else frozenset()

        yield from self._flaws_of_formats(folder_state, fresh)
        known = frozenset(fresh)
        own, own_before = self._own(folder_state, known), self._own(previous)
        yield from flaws_without_number(own, own_before, fresh)
        yield from Series(own, own_before, fresh, self._expected).flaws(text)
        folders = {path.rpartition("/")[0] for path in fresh}
        files: dict[str, dict[str, FileState]] = {folder: {} for folder in folders}
        for path, file_state in folder_state.items():
            folder, _, name = path.rpartition("/")
            if folder in folders and file_state.kind != "dir":
                files[folder][name] = file_state
        for folder in sorted(folders):
            yield from flaws_of(folder, files[folder], text, records, scope=self.scope)

    def _own(self, folder_state: FolderState, fresh: frozenset[str] = frozenset()) -> FolderState:
        """Return what this node has written, or everything if there is no other."""
        if self.scope is Scope.WHOLE:
            return folder_state
        return {
            path: file_state
            for path, file_state in folder_state.items()
            if path in fresh or self.given.get(path) != file_state
        }

    def _flaws_of_formats(self, folder_state: FolderState, fresh: list[str]) -> Iterator[Flaw]:
        unfinished = set()
        for path in fresh:
            file_state = folder_state[path]
            if temporary := temporary_of_orbax(path):
                unfinished.add(temporary)
                continue
            verdict = self.inspector.verdict(path, file_state) if file_state.size else None
            if verdict is not None and verdict.problem:
                reason = f"{path} is an incomplete {verdict.format} file: {verdict.problem}"
                about = f"{path} {file_state.size} {file_state.mtime_ns}"
                yield Flaw(path, reason, about, is_certain=verdict.is_certain)
        for folder in sorted(unfinished):
            reason = f"{folder} is an unfinished Orbax save"
            yield Flaw(folder, reason, folder, is_certain=True, alone=True)

    def _keep_time(self, flaws: Iterable[Flaw], now: float) -> None:
        """Start a clock for each new flaw; a later save without it stops the clock of a series."""
        series = {about: clock for about, clock in self._clocks.items() if "\0" in about}
        clocks = series if len(series) < MAX_CLOCKS else {}
        for flaw in flaws:
            clock = self._clocks.get(flaw.about)
            if clock is None or (flaw.in_series and flaw.seen_in >= clock.number):
                clock = _Clock(now, place_of(flaw.path).number or 0)
            clocks[flaw.about] = clock
        self._clocks = clocks

    def _pointers(
        self, folder_state: FolderState, fresh: list[str], incomplete: set[str]
    ) -> set[str]:
        """Return links and small files that name a save that is left out: they would dangle."""
        names = {name for name in incomplete if "\0" in name and name != NO_NUMBER}
        if not names:
            return set()
        samples: dict[str, str] = {}
        for path in folder_state:
            samples.setdefault(save_of(path), path)
        paths = [samples[name] for name in names if name in samples]
        found = {
            path
            for path, file_state in folder_state.items()
            if file_state.kind == "link"
            and any(names_save(file_state.target, sample) for sample in paths)
        }
        texts = [path for path in fresh if _may_point(path, folder_state[path])][:MAX_POINTER_FILES]
        for path in texts:
            content = self.inspector.text(path, folder_state[path])
            if any(names_save(content, sample) for sample in paths):
                found.add(path)
        return found


def _may_point(path: str, file_state: FileState) -> bool:
    small = 0 < file_state.size <= SMALL_TEXT
    return small and place_of(path).number is None and POINTER.search(path) is not None


def _what(flaw: Flaw, age: float) -> str:
    """Return what is left out for a flaw: the save, or only the path."""
    name = save_of(flaw.path)
    # What has existed for long and has no number does not belong to what is saved next to it.
    alone = flaw.alone or (name == NO_NUMBER and age >= MIN_MISSING_TIME.total_seconds())
    return flaw.path if alone else name


def _allowed_time(previous: FolderState, flaw: Flaw) -> float:
    """Return how long to wait: longer if earlier saves took long, too."""
    place = place_of(flaw.path)
    spread = 0.0
    if place.number is not None:
        for save in saves_in(previous, {place.parent}).values():
            times = [file_state.mtime_ns for file_state in save.members.values()]
            spread = max(spread, (max(times) - min(times)) / 1e9)
    waited = max(MIN_MISSING_TIME.total_seconds(), SPREADS * spread)
    return min(waited, MAX_MISSING_TIME.total_seconds())
