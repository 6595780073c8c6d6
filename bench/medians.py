"""Medians of the times of several processes, measured in turn, with their ratios to a baseline."""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping


def compare(
    timers: Mapping[str, Callable[[], float]], *, baseline: str, runs: int
) -> list[tuple[str, float, float]]:
    """Return for each timer its name, its median in milliseconds and the ratio to the baseline.

    The timers are called in turn, so that all of them see the same machine.
    """
    for timer in timers.values():
        timer()  # the byte code is on disk from here on
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(runs):
        for name, timer in timers.items():
            times[name].append(timer())
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        (name, round(value, 1), round(value / medians[baseline], 2))
        for name, value in medians.items()
    ]


def run(
    measure: Callable[[int], list[tuple[str, float, float]]],
    *,
    description: str | None,
    runs: int,
    column: str,
    width: int,
) -> None:
    """Print the table, or the document with --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.runs)
    if arguments.json:
        keys = (column, "ms", "ratio")
        print(json.dumps({"rows": [dict(zip(keys, row, strict=True)) for row in rows]}))
        return
    for name, milliseconds, ratio in rows:
        print(f"{name:<{width}} {milliseconds:>8} ms   {ratio:>5} ×")
