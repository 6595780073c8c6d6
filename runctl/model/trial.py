"""Trials of a hyperparameter sweep, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from runctl.model.hyperparameters import Value
from runctl.model.outcome import RunStatus
from runctl.model.trial_options import MAXIMIZE

MIN_DIGITS = 4
# The longest name of a sweep, whose trials append a hyphen and five digits to it.
MAX_SWEEP_NAME = 58
MAX_NAMES_SHOWN = 10


class TrialState(str, Enum):
    """The states of a trial. Those after `running` end it; a stopped or stale one may resume."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    STOPPED = "stopped"
    # Its execution is not known, so nobody can say how it ended.
    STALE = "stale"
    # Stored by a newer version.
    UNKNOWN = "unknown"


# What a resumed sweep continues.
UNFINISHED = frozenset({TrialState.STOPPED, TrialState.STALE})


def trial_run_id(group_id: str, number: int) -> str:
    """Return the run of a trial."""
    return f"{group_id}-{number:0{MIN_DIGITS}d}"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of a sweep, and the run that tries it.

    `chosen` is set when the trial is created and never changes. `execution` is the execution that
    runs it now: a trial that was stopped gets another. `value` is that of the sweep's metric, and
    `pruned_at` the step of the rung at which the trial was not continued.
    """

    group_id: str
    number: int
    chosen: Mapping[str, Value]
    started_at: datetime
    execution: str
    state: TrialState = TrialState.RUNNING
    value: float | None = None
    reason: str = ""
    ended_at: datetime | None = None
    pruned_at: int | None = None

    @property
    def run_id(self) -> str:
        """The run of this trial."""
        return trial_run_id(self.group_id, self.number)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it, unless the sweep is resumed."""
        return self.state is not TrialState.RUNNING


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """How a trial ended."""

    state: TrialState
    value: float | None = None
    reason: str = ""


def end_of_trial(
    status: RunStatus,
    *,
    reason: str,
    metric: str,
    measured: Mapping[str, float],
    not_finite: frozenset[str] = frozenset(),
    pruned_at: int | None = None,
) -> TrialEnd:
    """Return the end of a trial whose run has ended.

    `measured` are the last values of all metrics of the run, and `not_finite` the metrics whose
    last value is NaN or infinite.
    """
    value = measured.get(metric) if metric else None
    if status in (RunStatus.STOPPED, RunStatus.INTERRUPTED):
        return TrialEnd(state=TrialState.STOPPED, value=value, reason=reason)
    if status is not RunStatus.COMPLETED:
        return TrialEnd(state=TrialState.FAILED, value=value, reason=reason)
    if pruned_at is not None:
        return TrialEnd(state=TrialState.PRUNED, value=value, reason=f"pruned at step {pruned_at}")
    if metric and value is None:
        return TrialEnd(
            state=TrialState.FAILED, reason=_without_value(metric, measured, not_finite)
        )
    return TrialEnd(state=TrialState.COMPLETED, value=value)


def _without_value(metric: str, measured: Mapping[str, float], not_finite: frozenset[str]) -> str:
    if metric in not_finite:
        return f"the last value of {metric} is NaN or infinite; see the log of the trial's run"
    names = sorted({*measured, *not_finite} - {"step"})
    others = ", ".join(names[:MAX_NAMES_SHOWN]) + (", …" if len(names) > MAX_NAMES_SHOWN else "")
    if names:
        return (
            f"the script never reported {metric}; name one of those that it reported ({others}) as "
            "the metric, or report it"
        )
    return (
        f"the script reported no metrics; write {metric} as a line of JSON to RUNCTL_METRICS_FILE, "
        "or into metrics.json in RUNCTL_OUTPUT_DIR"
    )


def better(first: float, second: float, *, direction: str) -> bool:
    """Whether the first value is better than the second."""
    return first > second if direction == MAXIMIZE else first < second


def best_trial(trials: Sequence[Trial], *, direction: str) -> Trial | None:
    """Return the completed trial with the best value, the first of several."""
    best: Trial | None = None
    for trial in trials:
        if trial.state is not TrialState.COMPLETED or trial.value is None:
            continue
        value = None if best is None else best.value
        if value is None or better(trial.value, value, direction=direction):
            best = trial
    return best
