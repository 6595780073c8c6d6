"""CleanUp: an execution ended without FinishRun; leave nothing running, and tell of it."""

from collections.abc import Sequence
from typing import Any

from runctl.control.ending import (
    LEAVE_BY_THEMSELVES,
    end_open_attempts,
    is_stray,
    live_machines,
    may_end,
)
from runctl.control.notifications import tell_end
from runctl.control.ports import Services
from runctl.model import errors
from runctl.model.excerpt import shorten_reason
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.run import Attempt

NOT_OURS = "not_ours"
SUPERSEDED = "superseded"
CLEANED = "cleaned"

ABORTED = "ABORTED"


def clean_up(
    services: Services, *, execution_arn: str, name: str, status: str, cause: str = ""
) -> dict[str, Any]:
    """End the run of an execution, its attempts and its machines; safe to repeat.

    Called by the state machine's catch-all, and by the status-change event of every execution that
    ended, the good ones included: after FinishRun there is nothing left to do.
    """
    run_id = services.ledger.find_run_of_execution(name)
    run = services.ledger.find_run(run_id) if run_id else None
    if run is None:
        return {"status": NOT_OURS}
    stopped = status == ABORTED
    reason = shorten_reason(_plain(cause)) or (
        "the execution was stopped" if stopped else f"the execution ended: {status.lower()}"
    )
    # First of all, so that no launch passes from here on.
    run = services.ledger.end_run(
        run.run_id,
        status=RunStatus.STOPPED if stopped else RunStatus.FAILED,
        reason=reason,
        now=services.clock.now(),
        execution_arn=execution_arn,
    )
    if run.execution_arn != execution_arn:
        if stopped and execution_arn in run.ancestors and run.ended is None:
            # Step Functions stops the execution that this one waited for, but only does its best.
            services.workflow.stop_run(run.execution_arn, cause=reason)
        return {"run_id": run.run_id, "status": SUPERSEDED}
    ended = end_open_attempts(
        services,
        run.run_id,
        reason=reason,
        unlaunched=OutcomeKind.STOPPED if stopped else OutcomeKind.FAILED,
    )
    attempts = services.ledger.attempts(run.run_id)
    asked, terminated = _end_machines(services, attempts)
    tell_end(services, run, attempts=len(attempts))
    return {
        "run_id": run.run_id,
        "status": CLEANED,
        "run_status": run.ended.value if run.ended else "",
        "attempts_ended": ended,
        "asked_to_stop": asked,
        "terminated": terminated,
    }


def _plain(cause: str) -> str:
    """Drop the name of an error of ours, whose message says everything."""
    name, colon, message = cause.partition(": ")
    known = getattr(errors, name, None) if colon else None
    is_ours = isinstance(known, type) and issubclass(known, errors.RunctlError)
    return message if is_ours else cause


def _end_machines(services: Services, attempts: Sequence[Attempt]) -> tuple[list[str], list[str]]:
    """Let agents that train commit and leave; end the machines where nobody would be told."""
    asked: list[str] = []
    to_terminate: list[str] = []
    for attempt, machine in live_machines(services, attempts):
        if not may_end(services, attempt, machine):
            continue
        # An existing instance may only be asked; its agent looks for the end of the run, too.
        if (attempt.token or attempt.is_on_existing_instance) and services.commands.send(
            machine.instance_id, "stop"
        ):
            asked.append(machine.instance_id)
        elif attempt.is_on_existing_instance:
            continue
        elif (
            attempt.ended is None
            or attempt.ended.kind not in LEAVE_BY_THEMSELVES
            or is_stray(attempt, machine)
        ):
            to_terminate.append(machine.instance_id)
    if to_terminate:
        services.fleet.terminate(to_terminate)
    return asked, to_terminate
