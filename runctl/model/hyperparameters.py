"""Hyperparameters and the values that a sweep tries for them.

The values of a hyperparameter are a list (`0.001,0.01,0.1`) or a range (`1e-5..1e-1:log`, `2..8`).
A value keeps the text that it was given by: `0.001` is passed to the script as `0.001`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
MAX_PARAMETERS = 50
MAX_VALUES = 1000
MAX_TEXT = 200
SHOWN_DIGITS = 6

_INTEGER = re.compile(r"[+-]?\d{1,15}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_RANGE = re.compile(r"([^,:]*)\.\.([^,:]*)((?::[^:]*)*)")
_BOOLEANS = {"true": True, "True": True, "false": False, "False": False}

Plain = bool | int | float | str


@dataclass(frozen=True)
class Value:
    """One value of a hyperparameter: its text, and what the text means."""

    text: str
    plain: Plain


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Value, ...]

    @property
    def points(self) -> int | None:
        """The number of different values."""
        return len(self.values)

    def at(self, index: int) -> Value:
        """Return the value at an index, which is less than `points`."""
        return self.values[index]

    def draw(self, fraction: float) -> Value:
        """Return the value at a fraction from 0 up to 1."""
        return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included.

    `steps` is how many of them a grid takes, at equal distances or, with `is_log`, at equal ratios.
    Without it, a grid takes every integer, and a range of other numbers has no grid.
    """

    low: float
    high: float
    is_integer: bool
    is_log: bool = False
    steps: int | None = None

    @property
    def points(self) -> int | None:
        """The number of different values in a grid, None if it has no grid."""
        if self.steps is not None:
            return len(self._stepped())
        if self.is_integer and not self.is_log:
            return int(self.high - self.low) + 1
        return None

    def at(self, index: int) -> Value:
        """Return the value at an index of the grid, which is less than `points`."""
        if self.steps is None:
            return self._value(self.low + index)
        return self._stepped()[index]

    def draw(self, fraction: float) -> Value:
        """Return the value at a fraction from 0 up to 1."""
        if self.steps is not None:
            return Choices(self._stepped()).draw(fraction)
        if not self.is_integer:
            return self._value(self._between(self.low, self.high, fraction))
        # Each integer is as likely as its neighbor, the two ends included.
        drawn = self._between(self.low - 0.5, self.high + 0.5, fraction)
        return self._value(min(max(math.floor(drawn + 0.5), self.low), self.high))

    def holding(self, number: float) -> Value:
        """Return the value for a number of the range that something else has chosen."""
        return self._value(min(max(number, self.low), self.high))

    def _stepped(self) -> tuple[Value, ...]:
        steps = self.steps or 1
        drawn = [
            self._value(self._between(self.low, self.high, step / max(steps - 1, 1)))
            for step in range(steps)
        ]
        return tuple(dict.fromkeys(drawn))

    def _between(self, low: float, high: float, fraction: float) -> float:
        if not self.is_log:
            return low + fraction * (high - low)
        # The lower end of an integer range is at least 1, half an integer below which is positive.
        return math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))

    def _value(self, number: float) -> Value:
        if self.is_integer:
            return Value(str(round(number)), round(number))
        text = f"{number:.{SHOWN_DIGITS}g}"
        if not self.low <= float(text) <= self.high:
            text = repr(self.low if float(text) < self.low else self.high)
        return Value(text, float(text))


Domain = Choices | Range


@dataclass(frozen=True)
class SearchSpace:
    """The hyperparameters of a sweep, in the order in which they were given."""

    domains: Mapping[str, Domain]

    @property
    def points(self) -> int | None:
        """The number of points in the grid, None if a hyperparameter has no grid."""
        counts = [domain.points for domain in self.domains.values()]
        return None if None in counts else math.prod(count or 0 for count in counts)

    @property
    def without_grid(self) -> list[str]:
        """The hyperparameters whose range has no grid."""
        return [name for name, domain in self.domains.items() if domain.points is None]

    def at(self, index: int) -> dict[str, Value]:
        """Return a point of the grid; the last hyperparameter varies the fastest."""
        chosen = {}
        for name, domain in reversed([*self.domains.items()]):
            index, rest = divmod(index, domain.points or 1)
            chosen[name] = domain.at(rest)
        return {name: chosen[name] for name in self.domains}


class SyntaxProblemError(ValueError):
    """The values of a hyperparameter cannot be read; the message has the rule and the remedy."""


def split_word(word: str) -> tuple[str, str]:
    """Return the name and the values of a word of the command line, `NAME:VALUES`."""
    name, colon, values = word.partition(":")
    if not colon:
        shown = name.replace("=", ":", 1) if "=" in name else f"{name}:0.001,0.01"
        raise SyntaxProblemError(f"{word!r} has no ':'; write NAME:VALUES, such as {shown}")
    return name, values


def check_name(name: Any) -> str | None:
    """Check the name of a hyperparameter."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return None
    return (
        f"{name!r} is not a valid name; use letters, digits, '_', '-' and '.', at most 64, and "
        "begin with a letter or '_'"
    )


def read_domain(given: Any) -> Domain:
    """Read the values of a hyperparameter: text as on the command line, or a list in JSON.

    Raises SyntaxProblemError.
    """
    if isinstance(given, str):
        found = _RANGE.fullmatch(given.strip())
        if found and (_NUMBER.fullmatch(found[1]) or _NUMBER.fullmatch(found[2])):
            return _read_range(found[1], found[2], found[3].split(":")[1:])
        return _choices([read_value(text) for text in _split_values(given)])
    if isinstance(given, list | tuple):
        return _choices([_from_json(value) for value in given])
    raise SyntaxProblemError(
        f"{given!r} is neither text, such as '0.001,0.01' or '1e-5..1e-1:log', nor a list of values"
    )


def read_value(text: str) -> Value:
    """Read one value: a boolean, a number or, if it is neither, a string."""
    if text in _BOOLEANS:
        return Value(text, _BOOLEANS[text])
    if _INTEGER.fullmatch(text):
        return Value(text, int(text))
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return Value(text, float(text))
    return Value(text, text)


def _split_values(text: str) -> list[str]:
    values = [value.strip() for value in text.split(",")]
    if values == [""]:
        raise SyntaxProblemError("has no values; list them, separated by commas")
    if "" in values:
        raise SyntaxProblemError(f"{text!r} has an empty value; remove a comma, or add the value")
    return values


def _from_json(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(str(value).lower(), value)
    if isinstance(value, int | float) and math.isfinite(value):
        return Value(repr(value), value)
    if isinstance(value, str) and value.strip():
        return Value(value, value)
    raise SyntaxProblemError(
        f"{value!r} is not a value; use strings that are not empty, numbers and booleans"
    )


def _choices(values: Sequence[Value]) -> Choices:
    if not values:
        raise SyntaxProblemError("has no values; list them")
    if len(values) > MAX_VALUES:
        raise SyntaxProblemError(f"{len(values)} values exceed the limit of {MAX_VALUES}")
    for number, value in enumerate(values):
        if len(value.text) > MAX_TEXT or "\0" in value.text:
            raise SyntaxProblemError(
                f"value {number + 1} has more than {MAX_TEXT} characters or a NUL; put it into a "
                "file of the project, and list the names of the files"
            )
        if value.plain in [other.plain for other in values[:number] if _same_type(other, value)]:
            raise SyntaxProblemError(f"{value.text} is listed twice; remove one")
    return Choices(tuple(values))


def _same_type(one: Value, other: Value) -> bool:
    # In Python, True == 1.
    return isinstance(one.plain, bool | str) == isinstance(other.plain, bool | str)


def _read_range(low: str, high: str, words: Sequence[str]) -> Range:
    shown = f"{low}..{high}"
    for end in (low, high):
        if not _NUMBER.fullmatch(end) or not math.isfinite(float(end)):
            raise SyntaxProblemError(
                f"{shown}: {end!r} is not a number; give both ends, such as 1e-5..1e-1"
            )
    is_integer = bool(_INTEGER.fullmatch(low) and _INTEGER.fullmatch(high))
    is_log, steps = False, None
    for word in words:
        if word == "log" and not is_log:
            is_log = True
        elif re.fullmatch(r"\d{1,6}", word) and steps is None:
            steps = int(word)
        else:
            raise SyntaxProblemError(
                f"{shown}: {word!r} is not valid after a range; known: log, and a number of steps"
            )
    _check_ends(shown, float(low), float(high), is_log=is_log)
    if steps is not None and not 2 <= steps <= MAX_VALUES:
        raise SyntaxProblemError(f"{shown}: {steps} steps; give from 2 to {MAX_VALUES}")
    return Range(float(low), float(high), is_integer, is_log, steps)


def _check_ends(shown: str, low: float, high: float, *, is_log: bool) -> None:
    if low > high:
        raise SyntaxProblemError(f"{shown}: the ends are reversed; give the lower one first")
    if low == high:
        raise SyntaxProblemError(f"{shown}: the ends are equal; give the value itself")
    if is_log and low <= 0:
        raise SyntaxProblemError(
            f"{shown}: a logarithmic range must begin above 0; give a positive lower end, or "
            "remove :log"
        )


def plain_of(chosen: Mapping[str, Value]) -> dict[str, Plain]:
    """Return the values as JSON has them."""
    return {name: value.plain for name, value in chosen.items()}
