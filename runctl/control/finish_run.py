"""FinishRun: records a run's end, leaves nothing running, notifies, and returns the result."""

from runctl.control.ending import end_leftovers, end_open_attempts
from runctl.control.find_subject import release_subjects
from runctl.control.notifications import notify_end
from runctl.control.ports.services import Services
from runctl.control.results import RunResult
from runctl.control.warm_instances import keep_warm
from runctl.model.errors import RunEndedError
from runctl.model.identity import output_prefix
from runctl.model.outcome import RunStatus


def finish_run(
    services: Services, run_id: str, *, status: str, reason: str, execution_arn: str | None = None
) -> RunResult:
    """End the run, then every attempt that has not ended, such as one launched inside the notice.

    The run's end comes first: it prevents further launches, so everything that was launched is
    found after it. Raises RunEndedError if another execution than `execution_arn` has the run: a
    redriven execution must not end what a later one continues.
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
    if (run.ended, run.reason) == (RunStatus(status), reason):
        # Otherwise the execution was stopped meanwhile, and an agent may yet be asked to stop.
        keep_warm(services, run)
    end_open_attempts(services, run_id, reason="the run has ended")
    end_leftovers(services, run_id)
    release_subjects(services, run)
    attempts = len(services.ledger.attempts(run_id))
    # Last, because SNS may be slow, and instances cost money meanwhile.
    notify_end(services, run, attempts=attempts)
    return RunResult(
        run_id=run_id,
        status=run.ended or RunStatus(status),
        reason=run.reason,
        step=run.step,
        save=run.save or None,
        attempts=attempts,
        checkpoint=None if run.newest is None else services.objects.uri(run.newest),
        outputs=run.request.process.output or services.objects.uri(output_prefix(run_id)),
        metrics=run.metrics or None,
    )
