"""What the plots of a sweep show: values over time, importance, and parallel coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialState, best_trial, better
from runctl.plots.axes import Axis, domain_axis, spans_magnitudes, value_axis
from runctl.plots.importance import Importance, importance_of

MIN_COMPLETED = 2
# The difference of larger values may be infinite, so no axis has both.
_LARGEST = 1e300


class NothingToPlotError(ValueError):
    """A sweep has too few values; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The value of a completed or pruned trial."""

    number: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """A trial in parallel coordinates: its position on each axis, from 0 to 1, the metric last.

    `distance` is how far a completed trial is from the best, which has 0; the worst has 1.
    """

    number: int
    positions: tuple[float, ...]
    distance: float = 1.0
    is_pruned: bool = False
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepPlots:
    """The facts of all plots of a sweep.

    A pruned trial's value is that of the step at which it ended, so it is neither the best nor
    counted in the importance. `failed` are the numbers of the failed trials. `lines` are in the
    order in which they are drawn: the pruned ones, then the worst, and the best last.
    """

    sweep: str
    metric: str
    direction: str
    completed: tuple[Point, ...]
    pruned: tuple[Point, ...]
    failed: tuple[int, ...]
    best: Point
    best_so_far: tuple[Point, ...]
    is_log: bool
    importances: tuple[Importance, ...]
    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]

    @property
    def counted(self) -> str:
        """How many trials the plots show, by state."""
        named = (("completed", self.completed), ("pruned", self.pruned), ("failed", self.failed))
        return ", ".join(f"{len(found)} {state}" for state, found in named if found)

    def as_document(self) -> dict[str, Any]:
        """Return the facts that a script may want, as JSON."""
        return {
            "sweep": self.sweep,
            "metric": self.metric,
            "direction": self.direction,
            "counts": {
                "completed": len(self.completed),
                "pruned": len(self.pruned),
                "failed": len(self.failed),
            },
            "best": {"trial": self.best.number, "value": self.best.value},
            "importance": [importance.as_document() for importance in self.importances],
        }


def plots_of(sweep: str, options: SweepOptions, trials: Sequence[Trial]) -> SweepPlots:
    """Return what the plots of a sweep show.

    Raises NothingToPlotError with fewer than two completed trials that have a value.
    """
    completed = _measured(trials, TrialState.COMPLETED)
    pruned = _measured(trials, TrialState.PRUNED)
    best = best_trial(completed, direction=options.direction)
    problem = problem_with_plots(options, trials)
    if problem or best is None:
        raise NothingToPlotError(problem)
    points = _points(completed)
    axes = tuple(domain_axis(name, domain) for name, domain in options.space.domains.items())
    values = [point.value for point in (*points, *_points(pruned))]
    axes = (*axes, value_axis(options.metric, values))
    lines = [_line(trial, axes, best) for trial in (*pruned, *_best_last(completed, options))]
    return SweepPlots(
        sweep=sweep,
        metric=options.metric,
        direction=options.direction,
        completed=points,
        pruned=_points(pruned),
        failed=tuple(trial.number for trial in trials if trial.state is TrialState.FAILED),
        best=_points([best])[0],
        best_so_far=_best_so_far(points, options.direction),
        is_log=spans_magnitudes(values),
        importances=_importances(options, completed),
        axes=axes,
        lines=_with_distances([line for line in lines if line]),
    )


def problem_with_plots(options: SweepOptions, trials: Sequence[Trial]) -> str:
    """Return why a sweep has too few values for plots; empty if it has enough."""
    if not options.metric:
        return "it has no metric"
    completed = len(_measured(trials, TrialState.COMPLETED))
    if completed >= MIN_COMPLETED:
        return ""
    found = "only one trial has" if completed else "no trial has"
    counted = Counter(trial.state.value for trial in trials)
    states = ", ".join(f"{count} {state}" for state, count in counted.items())
    return (
        f"{found} been completed with a value of {options.metric}, and plots need {MIN_COMPLETED}"
        f"{f' (trials so far: {states})' if states else ''}"
    )


def _measured(trials: Sequence[Trial], state: TrialState) -> list[Trial]:
    """Return the trials in a state whose value can be drawn."""
    return [
        trial
        for trial in trials
        if trial.state is state and trial.value is not None and abs(trial.value) <= _LARGEST
    ]


def _points(trials: Sequence[Trial]) -> tuple[Point, ...]:
    return tuple(
        Point(number=trial.number, value=trial.value) for trial in trials if trial.value is not None
    )


def _best_so_far(points: Sequence[Point], direction: str) -> tuple[Point, ...]:
    def best_of(before: Point, point: Point) -> Point:
        improves = better(point.value, before.value, direction=direction)
        return Point(number=point.number, value=point.value if improves else before.value)

    return tuple(accumulate(points, best_of))


def _importances(options: SweepOptions, completed: Sequence[Trial]) -> tuple[Importance, ...]:
    """Return the importance of each hyperparameter, the most important first."""
    found = []
    for name in options.space.domains:
        known = [
            (trial.chosen[name].plain, trial.value)
            for trial in completed
            if name in trial.chosen and trial.value is not None
        ]
        found.append(importance_of(name, [plain for plain, _ in known], [v for _, v in known]))
    return tuple(
        sorted(
            found, key=lambda each: -1 if each.explained is None else each.explained, reverse=True
        )
    )


def _best_last(trials: Sequence[Trial], options: SweepOptions) -> list[Trial]:
    """Return trials from the worst to the best; of equal ones, the first is the best."""
    sign = -1 if options.direction == "maximize" else 1
    return sorted(trials, key=lambda trial: (sign * (trial.value or 0), trial.number), reverse=True)


def _line(trial: Trial, axes: Sequence[Axis], best: Trial) -> Line | None:
    """Return the line of a trial, None if an axis does not have its value."""
    *hyperparameters, metric = axes
    positions = [
        axis.position(trial.chosen[axis.name].plain) if axis.name in trial.chosen else None
        for axis in hyperparameters
    ]
    if trial.value is not None:
        positions.append(metric.position(trial.value))
    known = tuple(position for position in positions if position is not None)
    if len(known) < len(axes):
        return None
    return Line(
        number=trial.number,
        positions=known,
        is_pruned=trial.state is TrialState.PRUNED,
        is_best=trial.number == best.number,
    )


def _with_distances(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return lines from the worst to the best with their distances on the axis of the metric."""
    ends = [line.positions[-1] for line in lines if not line.is_pruned] or [0.0]
    worst, best = ends[0], ends[-1]
    return tuple(
        line
        if line.is_pruned
        else replace(line, distance=(line.positions[-1] - best) / ((worst - best) or 1))
        for line in lines
    )
