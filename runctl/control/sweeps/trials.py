"""What became of the trial of a sweep: read from its run, and recorded once."""

from collections.abc import Sequence

from runctl.control.ports.sweeps import SweepServices
from runctl.model.outcome import RunStatus
from runctl.model.result_metrics import flat_metrics
from runctl.model.run import Attempt, Run
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialEnd, TrialState, end_of_trial

ABORTED, SUCCEEDED = "ABORTED", "SUCCEEDED"
MAX_REASON = 1000
# How the ledger stores what JSON does not have.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def settle_trial(
    services: SweepServices, options: SweepOptions, trial: Trial, *, cause: str = ""
) -> Trial:
    """Record the end of a trial whose run has ended; return what the ledger holds.

    A trial whose run goes on is returned as it is. `cause` is why its execution could not be
    started, or failed, if that is known.
    """
    if trial.has_ended:
        return trial
    end = find_end(services, options, trial, cause=cause)
    if end is None:
        return trial
    return services.trials.end_trial(trial, end=end, now=services.clock.now())


def find_end(
    services: SweepServices, options: SweepOptions, trial: Trial, *, cause: str = ""
) -> TrialEnd | None:
    """Return how a trial has ended, None while it goes on."""
    run = services.ledger.find_run(trial.run_id)
    # While a stopped trial is started again, its run still has the end of the time before.
    has_begun = run is not None and services.ledger.find_run_of_execution(trial.execution)
    if run is None or not has_begun:
        return _end_without_run(services, trial, cause)
    status, reason = run.ended, run.reason
    if status is None:
        # Its clean-up has not happened yet, or never will.
        status, reason = _status_of_execution(services, run)
    if status is None:
        return None
    if status is RunStatus.UNKNOWN and run.ended is None:
        return TrialEnd(state=TrialState.STALE, reason=reason)
    values, not_finite = read_metrics_of(run, services.ledger.attempts(run.run_id))
    end = end_of_trial(
        status,
        reason=reason,
        metric=options.metric,
        measured=values,
        not_finite=not_finite,
        pruned_at=trial.pruned_at,
    )
    return TrialEnd(state=end.state, value=end.value, reason=_short(end.reason))


def _status_of_execution(services: SweepServices, run: Run) -> tuple[RunStatus | None, str]:
    execution = services.workflow.find_execution(run.execution_arn)
    if execution is None:
        return RunStatus.UNKNOWN, f"Step Functions does not know its execution {run.execution}"
    if execution.is_running or execution.status == SUCCEEDED:
        return None, ""
    if execution.status == ABORTED:
        return RunStatus.STOPPED, "its execution was stopped"
    return RunStatus.FAILED, execution.cause or f"its execution ended: {execution.status.lower()}"


def _end_without_run(services: SweepServices, trial: Trial, cause: str) -> TrialEnd | None:
    """Return the end of a trial whose execution has not recorded a run, or not continued it."""
    workflow = services.workflow
    execution = workflow.find_execution(workflow.execution_arn(trial.execution))
    if execution is None and not cause:
        return None
    if execution is None:
        return TrialEnd(state=TrialState.FAILED, reason=_short(f"it did not start: {cause}"))
    if execution.is_running:
        return None
    if execution.status == ABORTED:
        return TrialEnd(state=TrialState.STOPPED, reason="its execution was stopped")
    reason = execution.cause or f"its execution ended: {execution.status.lower()}"
    return TrialEnd(state=TrialState.FAILED, reason=_short(reason))


def read_metrics_of(
    run: Run, attempts: Sequence[Attempt]
) -> tuple[dict[str, float], frozenset[str]]:
    """Return the last value of each metric of a run, and the metrics that ended as no number.

    Those of its result count most. An attempt that resumed at the very end reports nothing any
    more: the values of the attempts before it count.
    """
    values: dict[str, float] = {}
    not_finite: frozenset[str] = frozenset()
    for attempt in attempts:
        progress = attempt.progress
        values |= progress.metrics
        not_finite = (not_finite - progress.metrics.keys()) | progress.not_finite
    for name, result in flat_metrics(run.metrics).items():
        if isinstance(result, int | float) and not isinstance(result, bool):
            values[name] = float(result)
            not_finite -= {name}
        elif result in NOT_FINITE:
            not_finite |= {name}
    kept = {name: value for name, value in values.items() if name not in not_finite}
    return kept, not_finite


def _short(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else f"…{reason[-MAX_REASON:]}"
