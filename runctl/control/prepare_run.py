"""PrepareRun: validates the request, and records the run in the ledger or continues it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from runctl.control.check_inputs import check_inputs
from runctl.control.check_network import check_network
from runctl.control.ending import end_leftovers, end_open_attempts
from runctl.control.find_subject import keep_subject, survey_evaluation
from runctl.control.image_plan import ImagePlan, plan_image
from runctl.control.ports.services import Services
from runctl.control.processing.plan_processing import (
    JobPlan,
    disk_bytes,
    plan_processing,
    store_plan,
)
from runctl.control.results import ImageBuild, PreparedRun
from runctl.control.use_existing_instance import problem_with
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.identity import RUN_ID, RUN_ID_RULE, build_log_stream
from runctl.model.image_reference import parse_image_reference
from runctl.model.kinds import PROCESS
from runctl.model.outcome import RunStatus
from runctl.model.plain_secrets import find_plain_secrets
from runctl.model.pool import machine_kind
from runctl.model.request import RunRequest
from runctl.model.request_checks import check_boolean, parse_instant, problem_with_deadline
from runctl.model.request_parsing import parse_request
from runctl.model.run import Run
from runctl.model.shard import PlanHeader
from runctl.policy.deployment_limits import problems_with_limits
from runctl.policy.disk_size import known_bytes, problem_with_disk
from runctl.policy.images import problem_with_images
from runctl.policy.session_policy import problems_with_session

# Step Functions defines this key of the input: the console links the two executions by it.
STARTED_BY = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"
# The one field that a continuation may have: the run's packages are resolved anew.
FRESH = "fresh_environment"

KEPT_INPUT = Problem(
    "input",
    "Step Functions keeps the input of this execution for 90 days; replace the secret where it was "
    "issued",
)


@dataclass(frozen=True, kw_only=True)
class ExecutionStart:
    """The execution that prepares the run, from the state machine's context.

    `parent_arn` is the execution that started it, of this or another state machine, if it is known.
    """

    arn: str
    name: str
    started_at: datetime
    parent_arn: str = ""

    @classmethod
    def from_context(cls, context: Mapping[str, str]) -> "ExecutionStart":
        """Read what a state machine passes of its context."""
        started_at = parse_instant(context["start_time"])
        return cls(
            arn=context["arn"],
            name=context["name"],
            started_at=started_at if started_at.tzinfo else started_at.replace(tzinfo=timezone.utc),
        )


def prepare_run(services: Services, execution: ExecutionStart, document: Any) -> PreparedRun:
    """Return the run and the number of its next attempt; a repeated call returns the same.

    Raises InvalidRequestError with all problems at once.
    """
    if isinstance(document, Mapping) and STARTED_BY in document:
        execution = replace(execution, parent_arn=str(document[STARTED_BY]))
        document = {name: value for name, value in document.items() if name != STARTED_BY}
    if isinstance(document, Mapping) and "run_id" in document:
        run = _continue(services, execution, document)
        plan = _plan_again(services, run)
    else:
        run, plan = _create(services, execution, document)
    if plan.image is not None:
        services.ledger.record_image(run.run_id, plan.image)
    return PreparedRun(
        run_id=run.run_id,
        attempt=_next_attempt(services, run.run_id),
        build=_build(services, run, plan),
    )


def _plan_again(services: Services, run: Run) -> ImagePlan:
    """Return the plan for a run that continues; one that has its image keeps it."""
    if run.image is None:
        return plan_image(services, run.request)
    reference = parse_image_reference(run.image.reference)
    if reference is not None and services.images.is_here(reference):
        services.images.find(reference)  # RequestError if it was deleted
    return ImagePlan()


def _build(services: Services, run: Run, plan: ImagePlan) -> ImageBuild | None:
    if plan.build is None:
        return None
    return ImageBuild(
        tag=plan.build.tag,
        project=plan.build.project,
        variables=tuple(
            {"Name": name, "Value": value, "Type": "PLAINTEXT"}
            for name, value in plan.build.variables.items()
        ),
        log_group=services.log_group,
        log_stream=build_log_stream(run.run_id),
    )


def _next_attempt(services: Services, run_id: str) -> int:
    attempts = services.ledger.attempts(run_id)
    return attempts[-1].number + 1 if attempts else 1


def _create(services: Services, execution: ExecutionStart, document: Any) -> tuple[Run, ImagePlan]:
    problems: list[Problem] = []
    if not RUN_ID.fullmatch(execution.name):
        problems.append(
            Problem("execution name", f"{execution.name!r} names the run; use {RUN_ID_RULE}")
        )
    try:
        request = parse_request(document)
    except InvalidRequestError as exc:
        exposed = [KEPT_INPUT] if _contains_secrets(document) else []
        raise InvalidRequestError((*problems, *exc.problems, *exposed)) from exc
    problems += problems_with_the_world(services, request)
    problems += problems_with_session(request, execution.name, services.place)
    problems_with_inputs, input_bytes = check_inputs(
        services, request.staged_inputs, fields=request.input_fields
    )
    problems += problems_with_inputs
    subject, problems_with_evaluation = survey_evaluation(services, request.evaluate)
    problems += problems_with_evaluation
    input_bytes += 0 if subject is None else subject.size_bytes
    job_plan, problems_with_job = _plan_job(services, request, execution)
    problems += problems_with_job
    header = job_plan.header if job_plan else _plan_of_group(services, request)
    if header is not None:
        input_bytes = disk_bytes(header, workers=request.process.workers)
    plan, problems_with_image = _plan(services, request)
    # Of an archive that cannot be read, one message is enough.
    known = {problem.message for problem in problems}
    problems += [problem for problem in problems_with_image if problem.message not in known]
    code_bytes = services.objects.size_of(request.program.code) if request.program.code else 0
    needed = known_bytes(input_bytes=input_bytes, code_bytes=code_bytes)
    if problem := _problem_with_disk(services, request, needed):
        problems.append(Problem("disk", problem))
    if job_plan is not None and not problems:
        problems += store_plan(services, job_plan)
    if problems:
        raise InvalidRequestError(tuple(problems))
    if subject is not None:
        keep_subject(services, subject, by=execution.name)
    run = services.ledger.create_run(
        Run(
            run_id=execution.name,
            request=request,
            started_at=execution.started_at,
            execution=execution.name,
            execution_arn=execution.arn,
            input_bytes=input_bytes,
            code_bytes=code_bytes,
            subject=subject,
        )
    )
    # An execution's name, and with it its ARN, is free again after 90 days; the run's is not.
    if (run.execution_arn, run.started_at) != (execution.arn, execution.started_at):
        raise InvalidRequestError(
            (
                Problem(
                    "execution name",
                    f"{execution.name!r} is a run of {run.started_at:%Y-%m-%d}; choose another "
                    f'name, or continue that run with {{"run_id": "{run.run_id}"}}',
                ),
            )
        )
    return run, plan


def _plan_job(
    services: Services, request: RunRequest, execution: ExecutionStart
) -> tuple[JobPlan | None, Sequence[Problem]]:
    """Return the plan of a run that processes data, and what is wrong with its data."""
    if request.kind != PROCESS or request.process.shard_count:
        return None, ()
    if request.process.instances > 1:
        problem = "needs the state machine of processing jobs; start the job there, or remove it"
        return None, (Problem("process.instances", problem),)
    return plan_processing(
        services, request.process, job=execution.name, started_at=execution.started_at
    )


def _plan_of_group(services: Services, request: RunRequest) -> PlanHeader | None:
    """Return the plan of the job of which a run processes a part, None for any other run."""
    if request.kind != PROCESS or not request.process.shard_count:
        return None
    header = services.processing_jobs.find_plan(request.group)
    if header is None:
        problem = f"there is no plan of shards of {request.group}; start the whole job"
        raise InvalidRequestError((Problem("group", problem),))
    return header


def _plan(services: Services, request: RunRequest) -> tuple[ImagePlan, Sequence[Problem]]:
    try:
        return plan_image(services, request), ()
    except InvalidRequestError as exc:
        return ImagePlan(), exc.problems


def _contains_secrets(document: Any) -> bool:
    return isinstance(document, Mapping) and bool(find_plain_secrets(document))


def problems_with_the_world(services: Services, request: RunRequest) -> list[Problem]:
    """Return what only the account can tell about a request: files, images, machines, time."""
    found = []
    for field, value in (("script", request.program.script), ("code", request.program.code)):
        if value.startswith("s3://") and (problem := services.objects.problem_with(value)):
            found.append(Problem(field, problem))
    if problem := problem_with_images(
        request.resources.instance_types, own_images=services.fleet.own_images
    ):
        found.append(Problem("instance_types", problem))
    found += problems_with_limits(request, services.fleet.limits)
    if problem := check_network(services, request):
        found.append(Problem("instance_types", problem))
    if request.resources.instance_id and (
        problem := _problem_with_machine(services, request.resources.instance_id)
    ):
        found.append(Problem("instance_id", problem))
    if request.limits.deadline is not None and (
        problem := problem_with_deadline(request.limits.deadline, services.clock.now())
    ):
        found.append(Problem("deadline", problem))
    if request.group and services.groups.find_group(request.group) is None:
        found.append(
            Problem("group", f"there is no group {request.group}; only its state machine sets this")
        )
    return found


def _problem_with_disk(services: Services, request: RunRequest, known: int) -> str:
    kinds = {machine_kind(name) for name in request.resources.instance_types}
    return problem_with_disk(
        request.resources.disk, services.fleet.root_volumes(), kinds, known=known
    )


def _problem_with_machine(services: Services, instance_id: str) -> str:
    # A missing instance may only be too new: LaunchInstances waits for it.
    for machine in services.fleet.describe([instance_id]):
        if problem := problem_with(machine):
            return f"{instance_id} {problem}"
    return ""


def _continue(services: Services, execution: ExecutionStart, document: Mapping[str, Any]) -> Run:
    run_id = document["run_id"]
    problems = []
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        problems.append(Problem("run_id", f"{run_id!r} is not {RUN_ID_RULE}"))
    if others := sorted(str(name) for name in document if name not in {"run_id", FRESH}):
        problems.append(
            Problem("run_id", f"not allowed with {', '.join(others)}; a run keeps its request")
        )
    if problem := check_boolean(document.get(FRESH, False)):
        problems.append(Problem(FRESH, problem))
    if problems:
        raise InvalidRequestError(tuple(problems))
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    first_attempt = _next_attempt(services, run_id)
    if run.execution_arn == execution.parent_arn and run.ended is None:
        # Nothing has ended: that execution continues in this one, and waits for its end.
        return services.ledger.continue_as_new(
            run_id,
            parent_arn=execution.parent_arn,
            execution=execution.name,
            execution_arn=execution.arn,
            first_attempt=first_attempt,
        )
    # The rules of the version that recorded the run may have been others.
    if problems_found := problems_with_session(run.request, run_id, services.place):
        raise InvalidRequestError(problems_found)
    if run.execution_arn != execution.arn:
        _close(services, run)
    if run.subject is not None:
        keep_subject(services, run.subject, by=run_id)
    return services.ledger.resume_run(
        run_id,
        execution=execution.name,
        execution_arn=execution.arn,
        first_attempt=first_attempt,
        fresh_environment=document.get(FRESH, False),
    )


def _close(services: Services, run: Run) -> None:
    """Make sure that the run's execution is over and that nothing of it is left.

    Once that execution is over, its FinishRun can no longer end the run under this one. Its
    clean-up may still be pending, or its event may have been lost.
    """
    if services.workflow.is_running(run.execution_arn):
        raise RequestError(
            f"the run {run.run_id} is running in the execution {run.execution}; "
            "stop it or wait for its end"
        )
    services.ledger.end_run(
        run.run_id,
        status=RunStatus.FAILED,
        reason="its execution ended unnoticed",
        now=services.clock.now(),
        execution_arn=run.execution_arn,
    )
    end_open_attempts(services, run.run_id, reason="its execution ended unnoticed")
    end_leftovers(services, run.run_id)
