"""Grouping of files into saves, and of saves into series, by their names. Pure."""

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

# Numbers that count something other than saves: shards, ranks, runs, versions.
OTHER_NUMBER = re.compile(
    r"-\d+-of-\d+|^__\d+_\d+|(?<![a-z])(?:rank|shard|part|worker|seed|fold|version|rng_state|node|gpu|cuda|"
    r"exp|experiment|run|trial|job|task|try|attempt|layer|v|lr|bs|tp|pp|dp|mp_rank)[-_=.]?\d+|tfevents\..*",
    re.IGNORECASE,
)
# A date or a time of day, alone or in the name of a run's folder.
DATE = re.compile(
    r"(?<!\d)(?:\d{4}-\d{2}-\d{2}|\d{4}_\d{2}_\d{2}|\d{2}-\d{2}-\d{2}|(?:19|20)\d{6})"
    r"(?:[-_T]\d{2}[-_:]?\d{2}(?:[-_:]?\d{2})?)?(?!\d)"
)
DECIMAL = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?(?!\d)", re.IGNORECASE)
FILE_TYPE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,11}$")
COUNTED = re.compile(
    r"(?:step|steps|iter|iters|iteration|epoch|epochs|ep|ckpt|chkpt|checkpoint|save|snapshot|round|"
    r"update|updates|batch|ba)[-_=.]?(\d{1,12})(?!\d)",
    re.IGNORECASE,
)
ALONE = re.compile(r"\d{1,12}")
NUMBER = re.compile(r"(?<!\d)\d{1,12}(?!\d)")
APART = re.compile(r"[-_=.](\d{1,12})(?!\d)")
DIGITS = re.compile(r"\d+")
# Times, process ids and hashes, which differ in every save.
UNIQUE = re.compile(r"\d{8,}|(?<![A-Za-z0-9])[0-9a-f]{8,}(?![A-Za-z0-9])")
REMEMBERED = 65_536
# The name for everything without a number, taken together.
NO_NUMBER = "\0"


@dataclass(frozen=True)
class Place:
    """Where a path belongs: to save `number` in the folder `parent`, as its file `member`.

    `root` is the name that carries the number, with `#` for it; `member` is the path below the
    parent, likewise. A path without a number belongs to what the program overwrites at each save.
    """

    parent: str
    number: int | None
    root: str
    member: str

    @property
    def save(self) -> str:
        """A name for the save that no path has."""
        return NO_NUMBER if self.number is None else f"{self.parent}\0{self.number}"


@lru_cache(REMEMBERED)
def place_of(path: str) -> Place:
    """Return which save a path belongs to."""
    names = path.split("/")
    level, number = _numbered(names)
    if number is None:
        return Place("", None, "", member=_generalized(path))
    parent = "/".join(names[:level])
    root = _root_pattern(names[level])
    below = [_without(name, number) for name in names[level + 1 :]]
    return Place(parent, number, root, "/".join([root, *below]))


def save_of(path: str) -> str:
    """Return a name for the save that a path belongs to; all paths without a number share one."""
    return place_of(path).save


def is_incomplete(incomplete: Set[str], path: str) -> bool:
    """Return whether a path is left out.

    `incomplete` has names of saves, and paths with what is below them.
    """
    if not incomplete:
        return False
    if save_of(path) in incomplete or path in incomplete:
        return True
    return any(path.startswith(f"{name}/") for name in incomplete if "\0" not in name)


def _numbered(names: list[str]) -> tuple[int, int | None]:
    """Return which name carries the save's number.

    Names that say what they count come first, the topmost of them; then folders, then the file.
    """
    cleaned = [_cleaned(name, is_file=level == len(names) - 1) for level, name in enumerate(names)]
    for level, name in enumerate(cleaned):
        found = COUNTED.findall(name) or ([name] if ALONE.fullmatch(name) else [])
        if found:
            return level, int(found[-1])
    for level, name in enumerate(cleaned[:-1]):
        if found := APART.findall(name):
            return level, int(found[-1])
    found = NUMBER.findall(cleaned[-1])
    return len(names) - 1, int(found[-1]) if found else None


def _cleaned(name: str, *, is_file: bool) -> str:
    name = DATE.sub("", OTHER_NUMBER.sub("", DECIMAL.sub("", name)))
    return FILE_TYPE.sub("", name) if is_file else name


def _root_pattern(name: str) -> str:
    """Replace all numbers of a name except those that count something else."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return "\0"

    pattern = DIGITS.sub("#", DECIMAL.sub("#", UNIQUE.sub("*", OTHER_NUMBER.sub(keep, name))))
    for text in kept:
        pattern = pattern.replace("\0", text, 1)
    return pattern


def _without(name: str, number: int) -> str:
    """Replace the save's number in the name of a file within it, and what is unique."""
    name = re.sub(rf"(?<!\d)0*{number}(?!\d)", "#", name)
    return UNIQUE.sub("*", name)


def _generalized(path: str) -> str:
    return DECIMAL.sub("#", UNIQUE.sub("*", path))
