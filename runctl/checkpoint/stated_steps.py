"""The step of a save according to small files in it: trainer states, JSON, trackers."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from runctl.checkpoint.settling import FileState, FolderState
from runctl.checkpoint.step_names import Numbered, Unit, counter_in, is_state, number_in, step_of

MAX_READ_BYTES = 64 * 1024
# The files of one save that state the same step may have been written this far apart.
CLOSE_NS = 5_000_000_000
RIGHT_AFTER_NS = 2_000_000_000
MAX_FILES_READ = 20

# Its keys are sorted, so the step comes before the log, however long that is.
HUGGING_FACE = "trainer_state.json"
_GLOBAL_STEP = re.compile(
    rb'^\s*\{.{0,65536}?\n\s{0,4}"global_step":\s*(\d{1,12})\s*[,}]', re.DOTALL
)
TRACKERS = frozenset({"latest_checkpointed_iteration.txt", "latest"})
STEP_KEYS = ("global_step", "step", "iteration", "iter", "num_updates", "epoch")
_SETTINGS = re.compile(
    r"config|args|param|setting|vocab|token|schema|generation|index", re.IGNORECASE
)

# Returns this many bytes of a file from an offset, or none if it is gone.
Read = Callable[[str, int, int], bytes]


@dataclass(frozen=True)
class Judged:
    """A judged snapshot: its step, or None if it is unknown, and what is new in it.

    `is_numbered` means that what it changed names the step; `has_news` that its state differs from
    the previous one, and not just by a longer log. If it `continues` the previous save, it holds
    the same state, or more files of it.
    """

    step: int | None
    is_numbered: bool
    has_news: bool
    continues: bool = False


@dataclass
class StepJudge:
    """Judges the saves of an attempt, one after another.

    `loose` are JSON files that have changed without the rest of a save, such as those that report a
    training's progress: they never state a save's step.
    """

    loose: set[str] = field(default_factory=set)

    def judge(
        self,
        folder_state: FolderState,
        changed: Iterable[str],
        *,
        held: FolderState,
        current: int | None,
        read: Read,
    ) -> Judged:
        """Judge a save that changed files.

        `folder_state` is the folder as it is saved, `held` as it was saved before, at the step
        `current`. A save that names no step has the current one as long as a file of that step
        exists.
        """
        files = {
            path: folder_state[path]
            for path in changed
            if path in folder_state and folder_state[path].kind == "file"
        }
        states = {path: file_state for path, file_state in files.items() if is_state(path)}
        step = self._step_named(folder_state, states, held, current, read)
        if step is not None:
            return Judged(step, is_numbered=True, has_news=bool(states))
        if (
            current is not None
            and states
            and not any(_names(path, current) for path in folder_state)
        ):
            current = None
        return Judged(current, is_numbered=False, has_news=bool(states))

    def _step_named(
        self,
        folder_state: FolderState,
        states: Mapping[str, FileState],
        held: FolderState,
        current: int | None,
        read: Read,
    ) -> int | None:
        named = step_of(
            {path: file_state.mtime_ns for path, file_state in states.items()}, held=held
        )
        if named is not None and _is_counted_better(folder_state, named, current):
            return None
        if named is not None and named.unit is Unit.STEP:
            return min(named.step, _tracked(folder_state, named.step, read))
        if named is None:
            self._find_loose(folder_state, states, held, current)
        stated = self._stated(states, named, read)
        return stated if stated is not None or named is None else named.step

    def _find_loose(
        self,
        folder_state: FolderState,
        states: Mapping[str, FileState],
        held: FolderState,
        current: int | None,
    ) -> None:
        """Find JSON files that changed without the rest of a save, and not right after it.

        They describe the training, not the save.
        """
        if any(not _is_sheet(path) for path in states):
            return
        others = [path for path in folder_state if _is_other(path, folder_state, states)]
        if not others:
            return
        has_names = current is not None and any(_names(path, current) for path in others)
        written = max(folder_state[path].mtime_ns for path in others)
        for path, file_state in states.items():
            is_first = path not in held or held[path].mtime_ns < written
            if has_names or not is_first or abs(file_state.mtime_ns - written) > RIGHT_AFTER_NS:
                self.loose.add(path)

    def _stated(
        self, states: Mapping[str, FileState], named: Numbered | None, read: Read
    ) -> int | None:
        """Return the step that a JSON file of the save states."""
        sheets = [path for path in states if _is_sheet(path)]
        others = [path for path in states if path not in sheets]
        written = max((states[path].mtime_ns for path in others), default=None)
        found = []
        for path in sheets[:MAX_FILES_READ]:
            close = written is None or abs(states[path].mtime_ns - written) <= CLOSE_NS
            if path in self.loose or not close or (named and number_in(path) != named):
                continue
            if (step := stated_step(path, states[path].size, read)) is not None:
                found.append((path.endswith(HUGGING_FACE), states[path].mtime_ns, step))
        return max(found)[2] if found else None


def _tracked(folder_state: FolderState, step: int, read: Read) -> int:
    """Return the step that a top-level tracker file names, if a save of it exists."""
    for path in TRACKERS & folder_state.keys():
        text = read(path, 0, 200).decode(errors="replace").strip()
        # excludes superscripts
        number = int(text) if text.isdecimal() and len(text) <= 12 else None
        found = number_in(text) if number is None else Numbered(number, Unit.STEP)
        if found is not None and any(number_in(path) == found for path in folder_state):
            return found.step
    return step


def _is_counted_better(folder_state: FolderState, named: Numbered, current: int | None) -> bool:
    """Return whether the current step still has a better name: a step rather than an epoch."""
    return named.unit is not Unit.STEP and any(
        found is not None and found.unit < named.unit and found.step == current
        for found in map(number_in, folder_state)
    )


def _is_other(path: str, folder_state: FolderState, states: Mapping[str, FileState]) -> bool:
    is_file = folder_state[path].kind == "file" and path not in states
    return is_file and is_state(path) and not _is_settings(path)


def _names(path: str, step: int) -> bool:
    """Return whether a path names the step, by a word or at the position of a counter."""
    if (named := number_in(path)) is not None:
        return named.step == step
    return (counted := counter_in(path)) is not None and counted[1] == step


def stated_step(path: str, size: int, read: Read) -> int | None:
    """Return the step that a JSON file states at its top level, or None."""
    if path.rpartition("/")[2] == HUGGING_FACE:
        match = _GLOBAL_STEP.match(read(path, 0, MAX_READ_BYTES))
        if match is not None:
            return int(match[1])
    if size > MAX_READ_BYTES:
        return None
    try:
        document = json.loads(read(path, 0, MAX_READ_BYTES))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    for key in STEP_KEYS:
        value = document.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 <= value < 10**12 and int(value) == value:
            return int(value)
    return None


def _is_sheet(path: str) -> bool:
    return path.endswith(".json") and not _is_settings(path)


def _is_settings(path: str) -> bool:
    return _SETTINGS.search(path.rpartition("/")[2]) is not None
