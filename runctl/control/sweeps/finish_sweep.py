"""FinishSweep: stores the results of a sweep and records its end."""

import json

from runctl.control.ending_groups import end_group
from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import SweepResult
from runctl.control.sweeps.ask_trial import read_sweep
from runctl.control.sweeps.trials import settle_trial
from runctl.model.group import Group
from runctl.model.identity import sweep_results_key
from runctl.model.outcome import RunStatus
from runctl.model.sweep_options import SweepOptions
from runctl.model.sweep_results import results_csv, results_document
from runctl.model.trial import Trial, TrialState, best_trial

MAX_REASON = 300


def finish_sweep(services: SweepServices, group_id: str, *, execution_arn: str) -> SweepResult:
    """Record the end of every trial, store the results, and end the sweep.

    May be repeated. The results are stored first: an ended sweep has them.
    """
    group, request = read_sweep(services, group_id)
    options = request.sweep
    trials = [
        settle_trial(services, options, trial) for trial in services.trials.list_trials(group_id)
    ]
    status, reason = _end_of(group, options, trials)
    document = results_document(group_id, options, trials, status=status, reason=reason)
    services.blobs.put(
        sweep_results_key(group_id, "results.json"), json.dumps(document, indent=1).encode()
    )
    services.blobs.put(
        sweep_results_key(group_id, "results.csv"), results_csv(options, trials).encode()
    )
    group = end_group(
        services, group_id, status=status, reason=reason, execution_arn=execution_arn
    ).group
    best = best_trial(trials, direction=options.direction)
    return SweepResult(
        group_id=group_id,
        status=group.ended or status,
        reason=group.reason or reason,
        trials=options.trials,
        ended=sum(trial.has_ended for trial in trials),
        best=None if best is None else best.number,
        value=None if best is None else best.value,
    )


def _end_of(group: Group, options: SweepOptions, trials: list[Trial]) -> tuple[RunStatus, str]:
    """Return the status of a sweep that ends now, and why it has it."""
    done = sum(trial.state in (TrialState.COMPLETED, TrialState.PRUNED) for trial in trials)
    noun = "trial is" if options.trials == 1 else "trials are"
    counted = f"{done} of {options.trials} {noun} completed or pruned"
    if group.stop_requested:
        return RunStatus.STOPPED, f"the sweep was stopped: {counted}"
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if failed and not done:
        reason = failed[0].reason[:MAX_REASON]
        return RunStatus.FAILED, f"no trial is completed; trial {failed[0].number}: {reason}"
    if len(trials) < options.trials:
        return RunStatus.COMPLETED, f"the deadline has passed: {counted}"
    return RunStatus.COMPLETED, counted
