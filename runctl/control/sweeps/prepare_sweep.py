"""PrepareSweep: validates the request of a sweep, and records the sweep or continues it."""

from collections.abc import Mapping
from typing import Any

from runctl.control.check_inputs import check_inputs
from runctl.control.ports.sweeps import SweepServices
from runctl.control.prepare_run import STARTED_BY, ExecutionStart, problems_with_the_world
from runctl.control.results import PreparedSweep
from runctl.control.sweeps.ask_trial import read_sweep
from runctl.control.sweeps.trials import settle_trial
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem, RequestError
from runctl.model.group import Group
from runctl.model.identity import RUN_ID
from runctl.model.outcome import RunStatus
from runctl.model.request_checks import problem_with_deadline
from runctl.model.sweep_request import parse_sweep_request
from runctl.model.trial import MAX_SWEEP_NAME, UNFINISHED, trial_run_id

KIND = "sweep"
NAME_RULE = f"1 to {MAX_SWEEP_NAME} letters, digits, '_' or '-'"
ENDED_UNNOTICED = "its execution ended unnoticed"


def prepare_sweep(
    services: SweepServices, execution: ExecutionStart, document: Any
) -> PreparedSweep:
    """Return the sweep and the trials to run; a repeated call returns the same.

    Raises InvalidRequestError with all problems at once.
    """
    if isinstance(document, Mapping):
        document = {name: value for name, value in document.items() if name != STARTED_BY}
    if isinstance(document, Mapping) and "group_id" in document:
        group = _continue(services, execution, document)
    else:
        group = _create(services, execution, document)
    _, request = read_sweep(services, group.group_id)
    sweep = request.sweep
    done = set()
    for trial in services.trials.list_trials(group.group_id):
        settled = settle_trial(services, sweep, trial)
        if settled.has_ended and settled.state not in UNFINISHED:
            done.add(settled.number)
    return PreparedSweep(
        group_id=group.group_id,
        sampler=sweep.sampler,
        instances=sweep.instances,
        numbers=tuple(number for number in range(1, sweep.trials + 1) if number not in done),
    )


def _create(services: SweepServices, execution: ExecutionStart, document: Any) -> Group:
    problems: list[Problem] = []
    name = execution.name
    if not RUN_ID.fullmatch(name) or len(name) > MAX_SWEEP_NAME:
        problems.append(Problem("execution name", f"{name!r} names the sweep; use {NAME_RULE}"))
    try:
        request = parse_sweep_request(document, group_id=name)
    except InvalidRequestError as exc:
        raise InvalidRequestError((*problems, *exc.problems)) from exc
    problems += problems_with_the_world(services, request)
    problems += check_inputs(services, request.staged_inputs)[0]
    deadline = request.sweep.deadline
    if deadline is not None and (problem := problem_with_deadline(deadline, services.clock.now())):
        problems.append(Problem("sweep.deadline", problem))
    held = services.groups.find_group(name)
    first = trial_run_id(name, 1)
    if held is None and services.ledger.find_run(first) is not None:
        problems.append(
            Problem("execution name", f"there is a run {first} already; choose another name")
        )
    if problems:
        raise InvalidRequestError(tuple(problems))
    group = held or services.groups.create_group(
        Group(
            group_id=name,
            kind=KIND,
            execution=name,
            execution_arn=execution.arn,
            started_at=execution.started_at,
            request=request.as_document(),
        )
    )
    # An execution's name, and with it its ARN, is free again after 90 days; the sweep's is not.
    if (group.execution_arn, group.started_at) != (execution.arn, execution.started_at):
        raise InvalidRequestError(
            (
                Problem(
                    "execution name",
                    f"{name!r} is a {group.kind} of {group.started_at:%Y-%m-%d}; choose another "
                    f'name, or continue it with {{"group_id": "{name}"}}',
                ),
            )
        )
    return group


def _continue(
    services: SweepServices, execution: ExecutionStart, document: Mapping[str, Any]
) -> Group:
    group_id = document["group_id"]
    if others := sorted(str(name) for name in document if name != "group_id"):
        problem = f"not allowed with {', '.join(others)}; a sweep keeps its request"
        raise InvalidRequestError((Problem("group_id", problem),))
    group = services.groups.find_group(group_id) if isinstance(group_id, str) else None
    if group is None or group.kind != KIND:
        raise NotFoundError(f"there is no sweep {group_id}")
    if group.execution_arn == execution.arn:
        return group
    if group.ended is None:
        if services.workflow.is_running(group.execution_arn):
            raise RequestError(
                f"the sweep {group_id} is running in the execution {group.execution}; stop it or "
                "wait for its end"
            )
        services.groups.end_group(
            group_id,
            status=RunStatus.FAILED,
            reason=ENDED_UNNOTICED,
            now=services.clock.now(),
            execution_arn=group.execution_arn,
        )
    return services.groups.resume_group(
        group_id, execution=execution.name, execution_arn=execution.arn
    )
