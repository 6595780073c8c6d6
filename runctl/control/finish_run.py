"""FinishRun: set the run's end, leave nothing running, tell of it, and return the result."""

from typing import Any

from runctl.control.ending import end_leftovers, end_open_attempts
from runctl.control.notifications import tell_end
from runctl.control.ports import Services
from runctl.model.errors import RunEndedError
from runctl.model.identity import output_prefix
from runctl.model.outcome import RunStatus


def finish_run(
    services: Services, run_id: str, *, status: str, reason: str, execution_arn: str | None = None
) -> dict[str, Any]:
    """End the run, then every attempt that has not ended, such as one launched inside the notice.

    The run's end comes first: from then on no launch passes, so what is found after it is all.
    Raises RunEndedError when another execution than `execution_arn` has the run: a redriven one
    must not end what a later one goes on with.
    """
    run = services.ledger.end_run(
        run_id,
        status=RunStatus(status),
        reason=reason,
        now=services.clock.now(),
        execution_arn=execution_arn,
    )
    if execution_arn not in {None, run.execution_arn}:
        raise RunEndedError(f"the run {run_id} belongs to the execution {run.execution}")
    end_open_attempts(services, run_id, reason="the run has ended")
    end_leftovers(services, run_id)
    attempts = len(services.ledger.attempts(run_id))
    # Last: it may take as long as SNS pleases, and machines bill meanwhile.
    tell_end(services, run, attempts=attempts)
    return {
        "run_id": run_id,
        "status": status if run.ended is None else run.ended.value,
        "reason": run.reason,
        "step": run.step,
        "save": run.save or None,
        "attempts": attempts,
        "checkpoint": None if run.newest is None else services.objects.uri(run.newest),
        "outputs": services.objects.uri(output_prefix(run_id)),
    }
