"""The step of a save according to the names of the files that it changed.

A number counts only if a word says what it counts. A wrong step is worse than none: a trainer may
skip what `RUNCTL_RESUME_STEP` promises.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

MAX_DIGITS = 12
# If more names have changed at once, the numbers in them count files, not saves.
MAX_CHANGED_NAMES = 1000


class Unit(IntEnum):
    """What a number in a name counts; the lowest wins within a name, and within a folder."""

    STEP = 0
    EPOCH = 1
    COUNT = 2  # no word says what, but the number is at the position of a counter


@dataclass(frozen=True)
class Numbered:
    """A step that a path names, and what it counts."""

    step: int
    unit: Unit


# Files that are not the state of a training: pictures, tables, logs, settings, programs.
_NO_STATE = re.compile(
    r"tfevents|\.(?:log|out|err|csv|tsv|png|jpe?g|gif|svg|pdf|webp|bmp|mp4|avi|wav|mp3|flac|html?|md"
    r"|ya?ml|toml|ini|cfg|py|sh|ipynb|lock|pid|tmp|part|partial)(?:\.gz)?$",
    re.IGNORECASE,
)
_TOOLS = frozenset(
    {
        "wandb",
        "mlruns",
        "__pycache__",
        ".git",
        ".cache",
        ".hydra",
        ".neptune",
        ".aim",
        "node_modules",
    }
)

_DATE = (
    r"(?<!\d)(?:(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])([-_.])(?:0?[1-9]|[12]\d|3[01])\2(?:19|20)\d\d"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_. ]?\d{1,2}"
    r"(?:[-_ ](?:19|20)\d\d)?)"
)
_HOUR, _SIXTIETH = r"(?:[01]?\d|2[0-3])", r"[0-5]\d"
_TIME_OF_DAY = rf"{_HOUR}[-_:.h]?{_SIXTIETH}(?:[-_:.m]?{_SIXTIETH})?[sz]?(?:[.,]\d+)?"
_NO_COUNTER = re.compile(
    "|".join(
        (
            rf"{_DATE}(?:[t_\-. ]+{_TIME_OF_DAY})?(?!\d)",
            rf"(?<![\d.]){_HOUR}([-_:]){_SIXTIETH}\3{_SIXTIETH}(?![\d.])",
            # Seconds since 1970, as well as milliseconds, microseconds and nanoseconds.
            r"(?<!\d)1[4-9]\d{8}(?:[.,]\d+|\d{3}|\d{6}|\d{9})?(?!\d)",
            r"\d+[.,]\d+(?:[.,]\d+)*(?:e[-+]?\d+)?",  # a decimal fraction, or a version
            r"\d+e[-+]?\d+",
            r"\d+x\d+(?:x\d+)*",  # a size
            r"\d+[-_]?of[-_]?\d+",  # one of several shards
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            r"(?<![0-9a-z])(?=[0-9a-f]*[a-f][0-9a-f]*\d)[0-9a-f]{7,}(?![0-9a-z])",
        )
    ),
    re.IGNORECASE,
)

# Not `max_steps=1000`, which is a setting, nor `every_100_steps`.
_SETTING = "".join(
    rf"(?<!{word}[-_ ])" for word in ("max", "num", "total", "warmup", "every", "per", "n")
)
_BEFORE = r"(?:global|train|training|optim(?:izer)?|opt|grad(?:ient)?|time|env)"
_STEP = rf"{_BEFORE}?[-_]?(?:steps?|iter(?:ation)?s?|itr|updates?)"
_EPOCH = r"(?:epochs?|ep)"
_SAVE = r"(?:checkpoint|ckpt|chkpt|checkpt)s?"
_BETWEEN = r"[-_=.:# @(\[]{0,3}"
# The helper adds a letter to a save that is repeated; `10k` is a round number of steps.
_NUMBER = r"(?<!\d)(?P<number>\d+)(?P<suffix>[a-z]{0,2})(?![a-z0-9])"


def _words(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z]){_SETTING}(?P<word>{word}){_BETWEEN}{_NUMBER}", re.IGNORECASE)


def _words_behind(word: str) -> re.Pattern[str]:
    number = r"(?<![a-z0-9])(?P<number>\d+)(?P<suffix>k?)"
    return re.compile(rf"{_SETTING}{number}[-_]?(?P<word>{word})(?![a-z])", re.IGNORECASE)


_PATTERNS = (
    (_words(_STEP), Unit.STEP),
    (re.compile(r"(?<![a-z])ep\d+-(?P<word>ba)(?P<number>\d+)(?P<suffix>)(?!\w)", re.I), Unit.STEP),
    (_words_behind(r"(?:time)?(?:steps?|iter(?:ation)?s?|updates?)"), Unit.STEP),
    (_words(_SAVE), Unit.STEP),
    (_words(_EPOCH), Unit.EPOCH),
    (_words_behind("epochs?"), Unit.EPOCH),
)

_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ANY_WORD = re.compile(r"step|ite?r|update|epoch|ep\d|ck?pt|che?c?k", re.IGNORECASE)

# Names that stand for a state of a training, so that a number behind them counts.
# fmt: off
_STATES = frozenset({
    "model", "models", "weights", "weight", "params", "param", "parameters", "state", "states",
    "net", "network", "nets", "snapshot", "snap", "save", "saved", "saves", "cp", "chk", "cpt", "g",
    "d", "gen", "generator", "disc", "discriminator", "policy", "agent", "actor", "critic", "opt",
    "optim", "optimizer", "ema", "best", "last", "latest", "final", "backup",
})
_CONTAINERS = frozenset({
    "checkpoint", "checkpoints", "ckpt", "ckpts", "model", "models", "weights", "saves", "saved",
    "snapshots", "snapshot", "output", "outputs", "result", "results", "states", "backup",
    "backups",
})
# fmt: on
_FILE_TYPE = re.compile(r"(?:\.[a-z][a-z0-9_]{0,11}){1,3}$", re.IGNORECASE)
_COUNTER = re.compile(r"(?:^|[-_.=])(\d{1,12})$|^[a-z]+(\d{2,12})$", re.IGNORECASE)


def is_state(path: str) -> bool:
    """Return whether a file can hold the state of a training: not a log, picture or table."""
    folder, _, name = path.rpartition("/")
    return _NO_STATE.search(name) is None and not _is_of_a_tool(folder) and name not in _TOOLS


def number_in(path: str) -> Numbered | None:
    """Return the step that a path names by a word, or None: from the top down, steps first."""
    if not is_state(path):
        return None
    folder, _, name = path.rpartition("/")
    return _named_in_folder(folder) or _named_in(name, is_folder=False)


@lru_cache(maxsize=20_000)
def _is_of_a_tool(folder: str) -> bool:
    return not _TOOLS.isdisjoint(folder.split("/"))


@lru_cache(maxsize=20_000)
def _named_in_folder(folder: str) -> Numbered | None:
    found = (_named_in(name, is_folder=True) for name in folder.split("/"))
    return next((step for step in found if step is not None), None)


def counter_in(path: str) -> tuple[str, int] | None:
    """Return the number at the position of a counter, with its name's pattern, or None.

    The name may contain nothing else except a word for the state of a training, and must be at the
    top or in a folder for saves.
    """
    if not is_state(path):
        return None
    names = path.split("/")
    for at, name in enumerate(names):
        stem = _FILE_TYPE.sub("", name) if at == len(names) - 1 else name
        if (number := _counter_of(stem)) is not None:
            return "/".join((*names[:at], re.sub(r"\d+", "#", name))), number
        if stem.lower() not in _CONTAINERS:
            return None
    return None


def step_of(changed: Mapping[str, int], *, held: Collection[str]) -> Numbered | None:
    """Return the step of a save that changed files, given with their times, or None.

    `held` are the paths of the previous checkpoint. If names give several numbers, a step precedes
    an epoch, and among equals the one that was written last counts.
    """
    numbered: dict[Numbered, int] = {}
    for path, mtime in changed.items():
        if (found := number_in(path)) is not None:
            numbered[found] = max(mtime, numbered.get(found, mtime))
    if not numbered:
        return _count_of(changed, held)
    unit = min(found.unit for found in numbered)
    kept = {found: mtime for found, mtime in numbered.items() if found.unit is unit}
    return max(kept, key=lambda found: (kept[found], found.step))


def _named_in(name: str, *, is_folder: bool) -> Numbered | None:
    if _ANY_WORD.search(name) is None:
        return None  # most names in a large folder end here
    plain = _NO_COUNTER.sub("~", _CAMEL_CASE.sub("-", name))
    for pattern, unit in _PATTERNS:
        for match in pattern.finditer(plain):
            # `epochs100_lr0.1/` is how long a program is to train, not how far it is.
            if is_folder and match["word"].lower().endswith("s"):
                continue
            if (step := _value(match["number"], match["suffix"].lower())) is not None:
                return Numbered(step, unit)
    return None


def _value(digits: str, suffix: str) -> int | None:
    if len(digits) > MAX_DIGITS:
        return None
    if suffix == "k" and not digits.startswith("0") and len(digits) <= 6:
        return int(digits) * 1000
    return int(digits)


def _counter_of(stem: str) -> int | None:
    plain = _NO_COUNTER.sub("", stem).rstrip("-_.= ")
    match = _COUNTER.search(plain)
    if match is None:
        return None
    words = [word for word in re.split(r"[-_.=\s\d]+", plain.lower()) if word]
    if not _STATES.issuperset(words):
        return None
    return int(match[1] or match[2])


def _count_of(changed: Mapping[str, int], held: Collection[str]) -> Numbered | None:
    """Return the count in names without a word, if it increases from one save to the next.

    A rewritten name has no counter, and several new ones at once are the files of ranks or parts
    unless those before them had lower numbers.
    """
    if len(changed) > MAX_CHANGED_NAMES:
        return None
    fresh: dict[str, dict[int, int]] = {}
    for path, mtime in changed.items():
        if path not in held and (found := counter_in(path)) is not None:
            numbers = fresh.setdefault(found[0], {})
            numbers[found[1]] = max(mtime, numbers.get(found[1], mtime))
    known = _highest_counts(held) if any(len(numbers) > 1 for numbers in fresh.values()) else {}
    counts = {
        number: mtime
        for pattern, numbers in fresh.items()
        for number, mtime in numbers.items()
        if len(numbers) == 1 or number > known.get(pattern, number)
    }
    if not counts:
        return None
    return Numbered(max(counts, key=lambda number: (counts[number], number)), Unit.COUNT)


def _highest_counts(held: Collection[str]) -> dict[str, int]:
    highest: dict[str, int] = {}
    for path in held:
        if (found := counter_in(path)) is not None:
            highest[found[0]] = max(found[1], highest.get(found[0], 0))
    return highest
