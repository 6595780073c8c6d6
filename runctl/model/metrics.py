"""Lines of metrics: a trainer may write anything there, and nothing may end the metrics."""

import json
import math
from dataclasses import dataclass, field

from runctl.model.checkpoint import is_step

# The maximum number of values read from a line, and of names in total.
MAX_VALUES = 40
MAX_NAMES = 100
MAX_NAME_LENGTH = 200


@dataclass(frozen=True)
class Measured:
    """The contents of a line: the step, if it has one, and the numbers that can be shown.

    `not_finite` are the names whose value is NaN, or too large for a number.
    """

    step: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    not_finite: frozenset[str] = frozenset()


def read_metrics(line: str) -> Measured | None:
    """Read a line; None for what is not a JSON object, however it is wrong."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # also of an integer with thousands of digits
        return None
    if not isinstance(document, dict):
        return None
    values: dict[str, float] = {}
    not_finite = set()
    for name, value in list(document.items())[:MAX_VALUES]:
        number = _number(value)
        if number is not None:
            values[_printable(name)] = number
        elif isinstance(value, int | float) and not isinstance(value, bool):
            not_finite.add(_printable(name))
    step = _number(document.get("step"))
    whole = None if step is None else int(step)
    return Measured(
        step=whole if is_step(whole) else None, values=values, not_finite=frozenset(not_finite)
    )


def _number(value: object) -> float | None:
    """Return a finite number; None for anything else, including an integer that is too large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _printable(name: str) -> str:
    """Return a name of limited length, with unprintable characters replaced."""
    name = name[:MAX_NAME_LENGTH]
    if name.isprintable():
        return name
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )
