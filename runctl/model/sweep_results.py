"""The results of a sweep, as files: all trials, and the best one."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from runctl.model.hyperparameters import plain_of
from runctl.model.outcome import RunStatus
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, best_trial

COLUMNS = ("trial", "run_id", "state")


def trial_entry(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON."""
    return {
        "trial": trial.number,
        "run_id": trial.run_id,
        "state": trial.state.value,
        "hyperparameters": plain_of(trial.chosen),
        "value": trial.value,
        "pruned_at": trial.pruned_at,
        "started_at": trial.started_at.isoformat(timespec="seconds"),
        "ended_at": None
        if trial.ended_at is None
        else trial.ended_at.isoformat(timespec="seconds"),
        "reason": trial.reason,
    }


def results_document(
    group_id: str,
    options: SweepOptions,
    trials: Sequence[Trial],
    *,
    status: RunStatus | None,
    reason: str,
) -> dict[str, Any]:
    """Return the results as JSON."""
    best = best_trial(trials, direction=options.direction)
    return {
        "sweep": group_id,
        "status": None if status is None else status.value,
        "reason": reason,
        "sampler": options.sampler,
        "pruner": options.pruner,
        "metric": options.metric or None,
        "direction": options.direction,
        "hyperparameters": dict(options.hyperparameters),
        "trial_count": options.trials,
        "best": None if best is None else trial_entry(best),
        "trials": [trial_entry(trial) for trial in trials],
    }


def results_csv(options: SweepOptions, trials: Sequence[Trial]) -> str:
    """Return a table of the trials: a line for each, with its hyperparameters as given."""
    names = list(options.hyperparameters)
    metric = options.metric or "value"
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow([*COLUMNS, *names, metric, "reason"])
    for trial in trials:
        chosen = [trial.chosen[name].text if name in trial.chosen else "" for name in names]
        value = "" if trial.value is None else repr(trial.value)
        table.writerow(
            [trial.number, trial.run_id, trial.state.value, *chosen, value, trial.reason]
        )
    return written.getvalue()
