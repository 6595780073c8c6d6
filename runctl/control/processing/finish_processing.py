"""FinishProcessing: makes one dataset of what the runs of a job processed, and ends the job."""

from runctl.control.ending_groups import end_group
from runctl.control.ports.services import Services
from runctl.control.results import ProcessingResult
from runctl.model.errors import NotFoundError
from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.shard import PlanHeader
from runctl.policy.sharding import Batch, batch_run_id, divide, tolerated


def finish_processing(
    services: Services, group_id: str, *, execution_arn: str, cause: str = ""
) -> ProcessingResult:
    """Store the index of a job if all of its runs are completed, and record its end.

    May be repeated. `cause` is why the runs were not all started, if they were not.
    """
    group = services.groups.find_group(group_id)
    header = services.processing_jobs.find_plan(group_id)
    if group is None or header is None:
        raise NotFoundError(f"there is no processing job {group_id}")
    request = RunRequest.from_stored(group.request)
    batches = divide(header.shards, instances=request.process.instances)
    status, reason = _end_of_runs(services, group, batches, cause)
    done = failed = None
    if status is RunStatus.COMPLETED:
        firsts = [batch.first for batch in batches]
        done, failed = services.processing_jobs.join_index(header, firsts)
        status, reason = _judge(header, request, done, failed)
    group = end_group(
        services, group_id, status=status, reason=reason, execution_arn=execution_arn
    ).group
    return ProcessingResult(
        group_id=group_id,
        status=group.ended or status,
        reason=group.reason or reason,
        outputs=header.output,
        shards=header.shards,
        done=done,
        failed=failed,
    )


def _end_of_runs(
    services: Services, group: Group, batches: list[Batch], cause: str
) -> tuple[RunStatus, str]:
    """Return how the runs ended together: completed if all are, or how the first other one did."""
    runs: dict[int, Run | None] = {
        batch.number: services.ledger.find_run(batch_run_id(group.group_id, batch.number))
        for batch in batches
    }
    others = [run for run in runs.values() if run is None or run.ended is not RunStatus.COMPLETED]
    if not others:
        return RunStatus.COMPLETED, ""
    if group.stop_requested:
        return RunStatus.STOPPED, "stopped by the user"
    # Those that were stopped because another one failed are not the reason.
    failed = [run for run in others if run is not None and run.ended is RunStatus.FAILED]
    ended = failed or [run for run in others if run is not None and run.ended is not None]
    if ended:
        return RunStatus.FAILED, f"{ended[0].run_id}: {ended[0].reason}"
    return RunStatus.FAILED, cause or "not all of its runs were started"


def _judge(
    header: PlanHeader, request: RunRequest, done: int, failed: int
) -> tuple[RunStatus, str]:
    """Return the end of a job whose runs are completed, each of which tolerates some failures."""
    most = tolerated(header.shards, part=request.process.tolerated_failures)
    if failed > most:
        return RunStatus.FAILED, f"{failed} of {header.shards} shards failed, and {most} may"
    if failed:
        return RunStatus.COMPLETED, (
            f"{done} of {header.shards} shards are done, and {failed} failed, which the job "
            "tolerates"
        )
    if header.shards == 1:
        return RunStatus.COMPLETED, "the shard is done"
    return RunStatus.COMPLETED, f"all {header.shards} shards are done"
