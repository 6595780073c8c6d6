"""DecideNext: decides what follows an attempt that ended."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from runctl.control.ports.services import Services
from runctl.control.results import NextStep
from runctl.model.decision import Decision, DecisionKind, decide
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.identity import continuation_name
from runctl.model.kinds import policy_of
from runctl.model.outcome import Outcome
from runctl.model.run import Run
from runctl.policy.launch_plan import remaining_wait

# An execution fails at 25,000 events of history. One turn of the loop is one attempt and adds 28
# events, and a retried function a few more. 60 events a turn allow every function to be retried.
MAX_EVENTS, EVENTS_A_TURN = 25_000, 60
MAX_TURNS = MAX_EVENTS // EVENTS_A_TURN - 10
_MAX_EXECUTION_NAMES = 50


def decide_next(
    services: Services,
    run_id: str,
    number: int,
    outcome: Mapping[str, Any],
    *,
    max_turns: int = MAX_TURNS,
) -> NextStep:
    """Return the decision; this changes nothing, so it may be repeated.

    `continue_as` is set if the run continues in an execution of that name, because this one's
    history has had `max_turns`.
    """
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    # A replacement launched inside the notice is already recorded; it is not what ended.
    attempts = [attempt for attempt in services.ledger.attempts(run_id) if attempt.number <= number]
    now, wait = services.clock.now(), timedelta(0)
    if run.ended is not None:
        decision = Decision(kind=DecisionKind.FINISH, status=run.ended, reason=run.reason)
    else:
        ended = Outcome.from_document(dict(outcome))
        policy = policy_of(run.request.kind)
        decision = decide(run, attempts, ended, policy=policy, now=now)
        if decision.kind is DecisionKind.RELAUNCH:
            wait = remaining_wait(ended, attempts[:-1], policy=policy, now=now)
    is_relaunched = decision.kind is DecisionKind.RELAUNCH
    turns = number - run.first_attempt + 1
    return NextStep(
        run_id=run_id,
        decision=decision.kind,
        attempt=number + 1 if is_relaunched else number,
        wait_seconds=math.ceil(wait.total_seconds()),
        reason=decision.reason,
        status=decision.status,
        continue_as=_free_name(services, run) if is_relaunched and turns >= max_turns else None,
    )


def _free_name(services: Services, run: Run) -> str:
    """Return the next execution's name; a refused execution keeps its name for 90 days."""
    before, _, _ = run.execution_arn.rpartition(":")
    first = run.executions + 1
    for number in range(first, first + _MAX_EXECUTION_NAMES):
        name = continuation_name(run.run_id, number)
        if not services.workflow.status_of(f"{before}:{name}"):
            return name
    raise RequestError(f"all names up to {name} belong to executions that were refused")
