"""PrepareSweep: validates the request of a sweep, and records the sweep or continues it."""

from collections.abc import Mapping, Sequence
from typing import Any

from runctl.control.check_inputs import check_inputs
from runctl.control.continuing_groups import continue_group, find_to_continue
from runctl.control.execution_start import STARTED_BY, ExecutionStart
from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import PreparedSweep
from runctl.control.survey_request import problems_with_the_world
from runctl.control.sweeps.ask_trial import read_sweep
from runctl.control.sweeps.trials import settle_trial
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.group import Group
from runctl.model.identity import RUN_ID
from runctl.model.request import RunRequest
from runctl.model.request_checks import problem_with_deadline
from runctl.model.sweep_request import SweepRequest, parse_sweep_request, trial_document
from runctl.model.trial import MAX_SWEEP_NAME, UNFINISHED, trial_run_id
from runctl.policy.session_policy import problems_with_session

KIND = "sweep"
NAME_RULE = f"1 to {MAX_SWEEP_NAME} letters, digits, '_' or '-'"


def prepare_sweep(
    services: SweepServices, execution: ExecutionStart, document: Any
) -> PreparedSweep:
    """Return the sweep and the trials to run; a repeated call returns the same.

    Raises InvalidRequestError with all problems at once.
    """
    if isinstance(document, Mapping):
        document = {name: value for name, value in document.items() if name != STARTED_BY}
    if isinstance(document, Mapping) and "group_id" in document:
        found = find_to_continue(services, document, kind=KIND, noun=KIND)
        group = continue_group(services, execution, found, noun=KIND)
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


def _problems_with_session(
    services: SweepServices, request: SweepRequest, group_id: str
) -> Sequence[Problem]:
    """Check the request of a trial, as it would be refused for each of them."""
    number = request.sweep.trials
    document = trial_document(request, group_id=group_id, number=number, chosen={})
    trial = RunRequest.from_stored(document)
    return problems_with_session(trial, trial_run_id(group_id, number), services.place)


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
    problems += _problems_with_session(services, request, name)
    problems += check_inputs(services, request.staged_inputs, fields=request.input_fields)[0]
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
