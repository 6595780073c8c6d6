"""AskTrial: the execution of a trial, whose hyperparameters are chosen by its number."""

from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import SkippedTrial, TrialToRun
from runctl.model.errors import NotFoundError, TransientError
from runctl.model.group import Group
from runctl.model.identity import continuation_name
from runctl.model.sweep_options import TPE
from runctl.model.sweep_request import SweepRequest, trial_document
from runctl.model.trial import UNFINISHED, Trial, trial_run_id
from runctl.policy.sampling import choose


def ask_trial(services: SweepServices, group_id: str, number: int) -> TrialToRun | SkippedTrial:
    """Return what runs a trial, or that nothing does; a repeated call returns the same.

    Once the sweep was stopped or its deadline has passed, no trial is started. One that has begun
    is returned again: its execution has its name, and is not started twice.
    """
    group, request = read_sweep(services, group_id)
    trial = services.trials.find_trial(group_id, number)
    skipped = SkippedTrial(group_id=group_id, number=number)
    has_begun = trial is not None and services.ledger.find_run(trial.run_id) is not None
    if not may_start(services, group, request) and (
        trial is None or trial.has_ended or not has_begun
    ):
        return skipped
    if trial is None:
        if request.sweep.sampler == TPE:
            raise TransientError(f"trial {number} of {group_id} has no hyperparameters yet")
        trial = services.trials.create_trial(
            Trial(
                group_id=group_id,
                number=number,
                chosen=choose(request.sweep, group_id=group_id, number=number),
                started_at=services.clock.now(),
                execution=trial_run_id(group_id, number),
            )
        )
    elif trial.state in UNFINISHED:
        trial = services.trials.restart_trial(trial, execution=_next_execution(services, trial))
    if trial.has_ended:
        return skipped
    is_first = trial.execution == trial.run_id
    return TrialToRun(
        group_id=group_id,
        number=number,
        execution=trial.execution,
        request=trial_document(
            request,
            group_id=group_id,
            number=number,
            chosen=trial.chosen,
            judge=services.judge_function,
        )
        if is_first
        else {"run_id": trial.run_id},
    )


def read_sweep(services: SweepServices, group_id: str) -> tuple[Group, SweepRequest]:
    """Return the group of a sweep and its request."""
    group = services.groups.find_group(group_id)
    request = None if group is None else SweepRequest.from_stored(group.request)
    if group is None or not isinstance(request, SweepRequest):
        raise NotFoundError(f"there is no sweep {group_id}")
    return group, request


def may_start(services: SweepServices, group: Group, request: SweepRequest) -> bool:
    """Whether the sweep may start another trial."""
    deadline = request.sweep.deadline
    is_late = deadline is not None and services.clock.now() >= deadline
    return not (group.stop_requested or group.ended or is_late)


def _next_execution(services: SweepServices, trial: Trial) -> str:
    """Return the name of the execution that continues a trial's run.

    One that never had a run begins with its first execution again, under another name only if that
    one is taken.
    """
    run = services.ledger.find_run(trial.run_id)
    return trial.run_id if run is None else continuation_name(trial.run_id, run.executions + 1)
