"""PlanShards: validates and plans a processing job on several instances, or resumes it."""

from collections.abc import Iterable, Mapping
from typing import Any

from runctl.control.continuing_groups import continue_group, find_to_continue
from runctl.control.execution_start import STARTED_BY, ExecutionStart
from runctl.control.ports.services import Services
from runctl.control.processing.plan_processing import plan_processing, store_plan
from runctl.control.results import PlannedShards
from runctl.control.survey_request import problems_with_the_world
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.group import Group
from runctl.model.identity import RUN_ID, continuation_name
from runctl.model.kinds import PROCESS
from runctl.model.outcome import RunStatus
from runctl.model.request import RunRequest
from runctl.model.request_parsing import parse_request
from runctl.policy.sharding import Batch, batch_run_id, divide

# The names of its runs have five characters more.
MAX_JOB_NAME = 59
NOUN = "processing job"
NAME_RULE = f"1 to {MAX_JOB_NAME} letters, digits, '_' or '-'"


def plan_shards(services: Services, execution: ExecutionStart, document: Any) -> PlannedShards:
    """Return the job and its batches; a repeated call returns the same.

    Raises InvalidRequestError with all problems at once.
    """
    if isinstance(document, Mapping):
        document = {name: value for name, value in document.items() if name != STARTED_BY}
        if "group_id" in document:
            return _resume(services, execution, document)
    name, problems = execution.name, []
    if not RUN_ID.fullmatch(name) or len(name) > MAX_JOB_NAME:
        problems.append(Problem("execution name", f"{name!r} names the job; use {NAME_RULE}"))
    try:
        request = parse_request(document)
    except InvalidRequestError as exc:
        raise InvalidRequestError((*problems, *exc.problems)) from exc
    if request.kind != PROCESS:
        raise InvalidRequestError((*problems, Problem("kind", f"must be {PROCESS}")))
    problems += _problems(request)
    problems += problems_with_the_world(services, request)
    plan, problems_with_data = plan_processing(
        services, request.process, job=name, started_at=execution.started_at
    )
    problems += problems_with_data
    if plan is not None and not problems:
        problems += store_plan(services, plan)
    if plan is None or problems:
        raise InvalidRequestError(tuple(problems))
    _record(services, execution, request)
    header = services.processing_jobs.find_plan(name) or plan.header
    batches = divide(header.shards, instances=request.process.instances)
    return _planned(name, request, (_begin(name, batch) for batch in batches))


def _resume(
    services: Services, execution: ExecutionStart, document: Mapping[str, Any]
) -> PlannedShards:
    """Return the batches of a job that has ended whose runs are not completed."""
    group = find_to_continue(services, document, kind=PROCESS, noun=NOUN)
    job = group.group_id
    header = services.processing_jobs.find_plan(job)
    if header is None:
        raise NotFoundError(f"the processing job {job} has no plan of its shards")
    request = RunRequest.from_stored(group.request)
    batches = []
    for batch in divide(header.shards, instances=request.process.instances):
        run = services.ledger.find_run(batch_run_id(job, batch.number))
        if run is None:
            batches.append(_begin(job, batch))
        elif run.ended is None:
            # It was stopped together with the job, and saves what it has.
            raise RequestError(f"{run.run_id} has not ended yet; wait for its end")
        elif run.ended is not RunStatus.COMPLETED:
            batches.append(_begin(job, batch, next_execution=run.executions + 1))
    continue_group(services, execution, group, noun=NOUN)
    return _planned(job, request, batches)


def _planned(job: str, request: RunRequest, batches: Iterable[dict[str, Any]]) -> PlannedShards:
    return PlannedShards(
        group_id=job,
        instances=request.process.instances,
        batches=tuple(batches),
        request={**request.as_document(), "group": job},
    )


def _begin(job: str, batch: Batch, *, next_execution: int = 1) -> dict[str, Any]:
    """Return how the run of a batch is begun, or continued in its next execution."""
    run_id = batch_run_id(job, batch.number)
    continues = next_execution > 1
    return {
        "run_id": run_id,
        "first": batch.first,
        "count": batch.count,
        "execution": continuation_name(run_id, next_execution) if continues else run_id,
        "continues": continues,
    }


def _problems(request: RunRequest) -> list[Problem]:
    found = []
    if request.resources.instance_id:
        found.append(
            Problem("instance_id", "not allowed with several instances; remove process.instances")
        )
    if request.group or request.process.shard_count:
        found.append(Problem("group", "not allowed for a whole job; remove it"))
    return found


def _record(services: Services, execution: ExecutionStart, request: RunRequest) -> None:
    group = services.groups.create_group(
        Group(
            group_id=execution.name,
            kind=PROCESS,
            execution=execution.name,
            execution_arn=execution.arn,
            started_at=execution.started_at,
            request=request.as_document(),
        )
    )
    # An execution's name, and with it its ARN, is free again after 90 days; the job's is not.
    if (group.execution_arn, group.started_at) != (execution.arn, execution.started_at):
        problem = (
            f"{execution.name!r} is a {group.kind} of {group.started_at:%Y-%m-%d}; choose another "
            "name"
        )
        raise InvalidRequestError((Problem("execution name", problem),))
