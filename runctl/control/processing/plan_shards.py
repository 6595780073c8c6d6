"""PlanShards: validates a processing job for several instances, and plans and records it."""

from collections.abc import Mapping
from typing import Any

from runctl.control.ports.services import Services
from runctl.control.prepare_run import STARTED_BY, ExecutionStart, problems_with_the_world
from runctl.control.processing.plan_processing import plan_processing, store_plan
from runctl.control.results import PlannedShards
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.group import Group
from runctl.model.identity import RUN_ID
from runctl.model.kinds import PROCESS
from runctl.model.request import RunRequest
from runctl.model.request_parsing import parse_request
from runctl.policy.sharding import batch_run_id, divide

# The names of its runs have five characters more.
MAX_JOB_NAME = 59
NAME_RULE = f"1 to {MAX_JOB_NAME} letters, digits, '_' or '-'"


def plan_shards(services: Services, execution: ExecutionStart, document: Any) -> PlannedShards:
    """Return the job and its batches; a repeated call returns the same.

    Raises InvalidRequestError with all problems at once.
    """
    if isinstance(document, Mapping):
        document = {name: value for name, value in document.items() if name != STARTED_BY}
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
    common = {**request.as_document(), "group": name}
    return PlannedShards(
        group_id=name,
        instances=request.process.instances,
        batches=tuple(
            {
                "run_id": batch_run_id(name, batch.number),
                "first": batch.first,
                "count": batch.count,
            }
            for batch in divide(header.shards, instances=request.process.instances)
        ),
        request=common,
    )


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
