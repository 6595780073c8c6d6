"""Asynchronous successive halving: which trials go on at a rung. Pure.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from collections.abc import Sequence


def rung_at(step: int, *, first: int, factor: int) -> int | None:
    """Return the step of the highest rung that a step has reached, None before the first."""
    if step < first:
        return None
    rung = first
    while rung * factor <= step:
        rung *= factor
    return rung


def goes_on(
    value: float, others: Sequence[float], *, direction: str, reduction_factor: int
) -> bool:
    """Whether a trial goes on after a rung at which other trials have these values.

    One of `reduction_factor` goes on. While there are fewer trials than that, only the best does:
    nobody waits for trials that have not reached the rung.
    """
    values = sorted([*others, value], reverse=direction == "maximize")
    threshold = values[max(len(values) // reduction_factor, 1) - 1]
    return value >= threshold if direction == "maximize" else value <= threshold
