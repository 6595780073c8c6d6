"""CleanUp: cleans up after an execution that ended without FinishRun, and notifies."""

from collections.abc import Sequence

from runctl.control.ending import (
    at_work,
    end_open_attempts,
    is_stray,
    leaves_by_itself,
    live_machines,
    may_end,
)
from runctl.control.ending_groups import end_group
from runctl.control.find_subject import release_subjects
from runctl.control.notifications import notify_end
from runctl.control.ports.services import Services
from runctl.control.results import CleanUpResult, CleanUpStatus
from runctl.model import errors
from runctl.model.excerpt import shorten_reason
from runctl.model.group import Group
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.run import Attempt

ABORTED = "ABORTED"


def clean_up(
    services: Services, *, execution_arn: str, name: str, status: str, cause: str = ""
) -> CleanUpResult:
    """End the run or group of an execution, its attempts and its machines; this may be repeated.

    The state machine calls it after an unexpected error, and the status-change event of every
    execution that ended calls it, too: after FinishRun there is nothing left to do.
    """
    group_id = services.groups.find_group_of_execution(name)
    group = services.groups.find_group(group_id) if group_id else None
    if group is not None and group.execution_arn == execution_arn:
        return _clean_up_group(services, group, status=status, cause=cause)
    run_id = services.ledger.find_run_of_execution(name)
    run = services.ledger.find_run(run_id) if run_id else None
    if run is None:
        return CleanUpResult(status=CleanUpStatus.NOT_OURS)
    stopped, reason = status == ABORTED, _reason(status, cause)
    # First, to prevent further launches.
    run = services.ledger.end_run(
        run.run_id,
        status=RunStatus.STOPPED if stopped else RunStatus.FAILED,
        reason=reason,
        now=services.clock.now(),
        execution_arn=execution_arn,
    )
    if run.execution_arn != execution_arn:
        if stopped and execution_arn in run.ancestors and run.ended is None:
            # Step Functions stops the execution that this one waited for on a best-effort basis.
            services.workflow.stop_run(run.execution_arn, cause=reason)
        return CleanUpResult(status=CleanUpStatus.SUPERSEDED, run_id=run.run_id)
    ended = end_open_attempts(
        services,
        run.run_id,
        reason=reason,
        unlaunched=OutcomeKind.STOPPED if stopped else OutcomeKind.FAILED,
    )
    attempts = services.ledger.attempts(run.run_id)
    asked, terminated = _end_machines(services, attempts)
    release_subjects(services, run)
    notify_end(services, run, attempts=len(attempts))
    return CleanUpResult(
        status=CleanUpStatus.CLEANED,
        run_id=run.run_id,
        run_status=run.ended,
        attempts_ended=tuple(ended),
        asked_to_stop=tuple(asked),
        terminated=tuple(terminated),
    )


def _clean_up_group(services: Services, group: Group, *, status: str, cause: str) -> CleanUpResult:
    """End a group after its parent execution: its members, and what waits for one."""
    ended = end_group(
        services,
        group.group_id,
        status=RunStatus.STOPPED if status == ABORTED else RunStatus.FAILED,
        reason=_reason(status, cause),
        execution_arn=group.execution_arn,
    )
    return CleanUpResult(
        status=CleanUpStatus.CLEANED,
        group_id=group.group_id,
        run_status=ended.group.ended,
        asked_to_stop=ended.left,
    )


def _reason(status: str, cause: str) -> str:
    was_stopped = status == ABORTED
    return shorten_reason(_plain(cause)) or (
        "the execution was stopped" if was_stopped else f"the execution ended: {status.lower()}"
    )


def _plain(cause: str) -> str:
    """Remove the name of one of runctl's errors, whose message is complete without it."""
    name, colon, message = cause.partition(": ")
    known = getattr(errors, name, None) if colon else None
    is_ours = isinstance(known, type) and issubclass(known, errors.RunctlError)
    return message if is_ours else cause


def _end_machines(services: Services, attempts: Sequence[Attempt]) -> tuple[list[str], list[str]]:
    """Ask agents of running attempts to save and stop; terminate the machines without one."""
    asked: list[str] = []
    to_terminate: list[str] = []
    for holder, machine in live_machines(services, attempts):
        if not may_end(services, holder, machine):
            continue
        attempt = at_work(attempts, holder, machine)
        # An existing instance may only be asked; its agent also watches for the end of the run.
        if (attempt.has_token or attempt.is_on_existing_instance) and services.commands.send(
            machine.instance_id, "stop"
        ):
            asked.append(machine.instance_id)
        elif attempt.is_on_existing_instance:
            continue
        elif is_stray(attempt, machine) or not leaves_by_itself(attempt, machine):
            to_terminate.append(machine.instance_id)
    if to_terminate:
        services.fleet.terminate(to_terminate)
    return asked, to_terminate
