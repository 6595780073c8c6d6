"""The survey of a request: what only its account and deployment can tell, before it is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass

from runctl.control.check_inputs import check_inputs
from runctl.control.check_network import check_network
from runctl.control.execution_start import ExecutionStart
from runctl.control.find_subject import survey_evaluation
from runctl.control.image_plan import ImagePlan, plan_image
from runctl.control.ports.services import Services
from runctl.control.processing.plan_processing import JobPlan, disk_bytes, plan_processing
from runctl.control.use_existing_instance import problem_with
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.kinds import PROCESS
from runctl.model.pool import machine_kind
from runctl.model.request import RunRequest
from runctl.model.request_checks import problem_with_deadline
from runctl.model.shard import PlanHeader
from runctl.model.subject import Subject
from runctl.policy.deployment_limits import problems_with_limits
from runctl.policy.disk_size import known_bytes, problem_with_disk
from runctl.policy.images import problem_with_images
from runctl.policy.session_policy import problems_with_session


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found out about a request.

    `image` is the plan of its image, `job` that of its shards if it processes data, and `subject`
    the checkpoint that it evaluates. `problems` are all reasons to refuse it.
    """

    image: ImagePlan
    job: JobPlan | None
    subject: Subject | None
    input_bytes: int
    code_bytes: int
    problems: tuple[Problem, ...]


def survey_request(services: Services, execution: ExecutionStart, request: RunRequest) -> Survey:
    """Find out everything that a run needs to know of its request. Stores nothing."""
    problems = problems_with_the_world(services, request)
    problems += problems_with_session(request, execution.name, services.place)
    problems_with_inputs, input_bytes = check_inputs(
        services, request.staged_inputs, fields=request.input_fields
    )
    problems += problems_with_inputs
    subject, problems_with_evaluation = survey_evaluation(services, request.evaluate)
    problems += problems_with_evaluation
    input_bytes += 0 if subject is None else subject.size_bytes
    job, problems_with_job = _plan_job(services, request, execution)
    problems += problems_with_job
    header = job.header if job else _plan_of_group(services, request)
    if header is not None:
        input_bytes = disk_bytes(header, workers=request.process.workers)
    image, problems_with_image = _plan_image(services, request)
    # Of an archive that cannot be read, one message is enough.
    known = {problem.message for problem in problems}
    problems += [problem for problem in problems_with_image if problem.message not in known]
    code_bytes = services.objects.size_of(request.program.code) if request.program.code else 0
    needed = known_bytes(input_bytes=input_bytes, code_bytes=code_bytes)
    if problem := _problem_with_disk(services, request, needed):
        problems.append(Problem("disk", problem))
    return Survey(
        image=image,
        job=job,
        subject=subject,
        input_bytes=input_bytes,
        code_bytes=code_bytes,
        problems=tuple(problems),
    )


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


def _plan_image(services: Services, request: RunRequest) -> tuple[ImagePlan, Sequence[Problem]]:
    try:
        return plan_image(services, request), ()
    except InvalidRequestError as exc:
        return ImagePlan(), exc.problems


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
