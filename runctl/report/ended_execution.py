"""The end of an execution as its follower finds it: refused, recorded in the ledger, or neither."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from runctl.model.errors import NotFoundError, RequestError, RunctlError

if TYPE_CHECKING:
    from runctl.aws.workflow import Execution, StepFunctions

# Clean-up records the end of a run this long after its execution, or not at all.
CLEAN_UP_TIMEOUT = timedelta(seconds=90)


def find_ended(workflow: StepFunctions, execution_arn: str, *, waited: float) -> Execution | None:
    """Return the execution if it has ended; it has been followed for `waited` seconds.

    Raises NotFoundError if it does not exist after that time.
    """
    execution = workflow.find_execution(execution_arn)
    if execution is None:
        # StartExecution is eventually consistent.
        if waited > CLEAN_UP_TIMEOUT.total_seconds():
            raise NotFoundError(f"the execution {execution_arn} does not exist")
        return None
    return None if execution.is_running else execution


def refusal(execution: Execution, what: str) -> RunctlError:
    """Return the error of an execution that ended before `what` it was for began."""
    if execution.status == "FAILED":
        return RequestError(execution.cause or f"the request was refused ({execution.error})")
    return RunctlError(
        f"the execution {execution.name} ended as {execution.status} before the {what} began"
    )


def require_recorded(execution: Execution, what: str) -> None:
    """Raise RunctlError if the ledger should have recorded the end of `what` by now."""
    ended_at = execution.ended_at or execution.started_at
    if datetime.now(timezone.utc) - ended_at > CLEAN_UP_TIMEOUT:
        raise RunctlError(
            f"the execution {execution.name} has ended ({execution.status}), but the ledger "
            f"does not record the end of the {what}: {execution.cause or 'clean-up did not run'}; "
            "see the log of the function clean_up"
        )
