"""The axes of parallel coordinates: where a value lies, from 0 to 1, and which ticks there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from runctl.model.hyperparameters import Choices, Domain, Plain, Range, Value
from runctl.model.result_metrics import is_number
from runctl.plots.importance import kind_and_value

# More names of categories would overlap.
MAX_TICKS = 12
_STEPS = 4
_TICK_DIGITS = 3
# Positive values that differ by more than this factor are drawn by their logarithm.
LOG_FACTOR = 100


@dataclass(frozen=True, kw_only=True)
class NumberAxis:
    """An axis of numbers from `low` to `high`, which differ."""

    name: str
    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False

    def position(self, plain: Plain) -> float | None:
        """Return where a value lies; None if it is not a number of the axis."""
        if not is_number(plain) or not self.low <= float(plain) <= self.high:
            return None
        if self.is_log:
            low = math.log(self.low)
            return (math.log(float(plain)) - low) / (math.log(self.high) - low)
        return (float(plain) - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Positions and their labels: the ends, and what is between them."""
        width = self.high - self.low
        inner: list[float] = [self.low + width * step / _STEPS for step in range(1, _STEPS)]
        if self.is_log:
            first, last = math.log10(self.low), math.log10(self.high)
            powers = range(math.floor(first) + 1, math.ceil(last))
            inner = [10.0**power for power in powers[:: len(powers) // MAX_TICKS + 1]]
        elif self.is_integer:
            step = max(1, round(width / _STEPS)) if width > MAX_TICKS else 1
            inner = [self.low + done for done in range(step, int(width), step)]
        ticks: dict[str, float] = {}
        for number in (self.low, self.high, *inner):
            position = self.position(number)
            if position is not None:
                ticks.setdefault(self._label(number), position)
        return tuple((position, label) for label, position in ticks.items())

    def _label(self, number: float) -> str:
        return f"{number:.0f}" if self.is_integer else f"{number:.{_TICK_DIGITS}g}"


@dataclass(frozen=True, kw_only=True)
class CategoryAxis:
    """An axis of values at equal distances, numbers in their order."""

    name: str
    values: tuple[Value, ...]

    def position(self, plain: Plain) -> float | None:
        """Return where a value lies; None if the axis does not have it."""
        return self._positions.get(kind_and_value(plain))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Positions and the texts of the values, not of all if there are many."""
        step = -(-len(self.values) // MAX_TICKS)
        return tuple(
            (self._at(index), self.values[index].text) for index in range(0, len(self.values), step)
        )

    @cached_property
    def _positions(self) -> dict[tuple[bool, Plain], float]:
        return {
            kind_and_value(value.plain): self._at(index) for index, value in enumerate(self.values)
        }

    def _at(self, index: int) -> float:
        return index / (len(self.values) - 1) if len(self.values) > 1 else 0.5


Axis = NumberAxis | CategoryAxis


def domain_axis(name: str, domain: Domain) -> Axis:
    """Return the axis of a hyperparameter."""
    if isinstance(domain, Range):
        return NumberAxis(
            name=name,
            low=domain.low,
            high=domain.high,
            is_log=domain.is_log,
            is_integer=domain.is_integer,
        )
    return CategoryAxis(name=name, values=_in_order(domain))


def value_axis(name: str, values: Sequence[float]) -> NumberAxis:
    """Return the axis of a metric, which has some room if all values are equal."""
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 10 or 1.0
        low, high = low - room, high + room
    return NumberAxis(name=name, low=low, high=high, is_log=spans_magnitudes(values))


def spans_magnitudes(values: Sequence[float]) -> bool:
    """Whether values are best drawn by their logarithm."""
    return min(values) > 0 and max(values) / LOG_FACTOR > min(values)


def _in_order(domain: Choices) -> tuple[Value, ...]:
    if all(is_number(value.plain) for value in domain.values):
        return tuple(sorted(domain.values, key=lambda value: float(value.plain)))
    return domain.values
