"""PrepareRun: validates the request, and records the run in the ledger or continues it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runctl.control.ending import end_leftovers, end_open_attempts
from runctl.control.execution_start import STARTED_BY, ExecutionStart
from runctl.control.find_subject import keep_subject
from runctl.control.image_plan import ImagePlan, plan_image
from runctl.control.ports.services import Services
from runctl.control.processing.plan_processing import store_plan
from runctl.control.results import ImageBuild, PreparedRun
from runctl.control.survey_request import survey_request
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.identity import RUN_ID, RUN_ID_RULE, build_log_stream
from runctl.model.image_reference import parse_image_reference
from runctl.model.outcome import RunStatus
from runctl.model.plain_secrets import find_plain_secrets
from runctl.model.request_checks import check_boolean
from runctl.model.request_parsing import parse_request
from runctl.model.run import Run
from runctl.policy.session_policy import problems_with_session

# The one field that a continuation may have: the run's packages are resolved anew.
FRESH = "fresh_environment"

KEPT_INPUT = Problem(
    "input",
    "Step Functions keeps the input of this execution for 90 days; replace the secret where it was "
    "issued",
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
    survey = survey_request(services, execution, request)
    problems += survey.problems
    if survey.job is not None and not problems:
        problems += store_plan(services, survey.job)
    if problems:
        raise InvalidRequestError(tuple(problems))
    if survey.subject is not None:
        keep_subject(services, survey.subject, by=execution.name)
    run = services.ledger.create_run(
        Run(
            run_id=execution.name,
            request=request,
            started_at=execution.started_at,
            execution=execution.name,
            execution_arn=execution.arn,
            input_bytes=survey.input_bytes,
            code_bytes=survey.code_bytes,
            subject=survey.subject,
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
    return run, survey.image


def _contains_secrets(document: Any) -> bool:
    return isinstance(document, Mapping) and bool(find_plain_secrets(document))


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
