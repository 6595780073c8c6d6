"""Which step a save stands for, read from the names of what it changed."""

import re
from collections.abc import Iterable

# Numbers that count something else: shards, ranks, versions; and what is no step but a file type.
OTHER_NUMBER = re.compile(
    r"-of-\d+|(?:rank|shard|part|worker|seed|fold|version|rng_state|node|gpu|v)[-_=.]?\d+", re.I
)
FILE_TYPE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,11}$")
NUMBER = re.compile(r"\d+")
LONGEST_NUMBER = 12


def step_of(paths: Iterable[str], *, before: int | None) -> int:
    """Return the step of a save that changed `paths`; `before` is the step of the one before it.

    It is the last number in a name, the highest over all names; where no name has one, the next.
    """
    numbers = [number for path in paths for number in _numbers(path)]
    if numbers:
        return max(numbers)
    return 0 if before is None else before + 1


def group_of(unit: str) -> int | None:
    """Return the number in a top-level name, which the files of one save share, or None."""
    return next(iter(_numbers(unit)), None)


def _numbers(path: str) -> Iterable[int]:
    for name in path.split("/"):
        stem = FILE_TYPE.sub("", OTHER_NUMBER.sub("", name))
        found = [digits for digits in NUMBER.findall(stem) if len(digits) <= LONGEST_NUMBER]
        if found:
            yield int(found[-1])
