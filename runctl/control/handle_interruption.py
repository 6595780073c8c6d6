"""EC2 is about to take an instance: launch the replacement and let the agent drain."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runctl.control.launch_instances import launch_instances
from runctl.control.owners import find_owner
from runctl.control.ports import Services
from runctl.control.results import LaunchedAttempt
from runctl.model.decision import DecisionKind, decide
from runctl.model.ec2_events import EventKind, read_event
from runctl.model.errors import RunEndedError
from runctl.model.kinds import policy_of
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.policy.capacity import AFTER_A_RECLAIM

NOT_OURS = "not_ours"
ALREADY_ENDED = "already_ended"
RELAUNCHED = "relaunched"
NO_CAPACITY = "no_capacity"
NOT_RELAUNCHED = "not_relaunched"
ASKED = "asked"
AGENT_NOT_THERE = "agent_not_there"
UNREADABLE = "unreadable"


def handle_event(services: Services, event: Mapping[str, Any]) -> dict[str, Any]:
    """Handle an event of EventBridge about an instance; one that cannot be read changes nothing.

    Raising would deliver it again, and it would be no more readable then.
    """
    found = read_event(event)
    if found is None:
        return {"status": UNREADABLE}
    if found.kind is EventKind.REBALANCE:
        handled = handle_rebalance(services, found.instance_id)
    else:
        handled = handle_interruption(services, found.instance_id, deadline=found.deadline)
    return {"event": found.kind.value, "instance_id": found.instance_id, **handled}


def handle_interruption(
    services: Services, instance_id: str, *, deadline: datetime | None = None
) -> dict[str, Any]:
    """Answer an interruption warning; every step may be repeated by a second delivery.

    The state machine decides for itself once the attempt has reported. What is launched here, it
    adopts; and if it decides otherwise, FinishRun ends it. `deadline` is that of a warning which
    the instance metadata do not show: then only the command lets the agent know.
    """
    found = _find(services, instance_id)
    if found is None:
        return {"status": NOT_OURS}
    run, attempt, pool = found
    known = {"run_id": run.run_id, "attempt": attempt.number}
    # Late or twice: the state machine has gone on, and what follows is its business.
    if attempt.stage is AttemptStage.ENDED or run.ended is not None:
        return {**known, "status": ALREADY_ENDED}
    services.ledger.note_notice(run.run_id, attempt.number, now=services.clock.now())
    try:
        status = _relaunch(services, run, attempt, pool)
    finally:
        # Whatever became of the launch. Not before it: the replacement's boot is the longer wait.
        # The agent watches the instance metadata too, so after a spot notice a command that misses
        # it costs nothing.
        reached = services.commands.send(instance_id, "drain", deadline=deadline)
    return {**known, "status": status, "agent_reached": reached}


def handle_rebalance(services: Services, instance_id: str) -> dict[str, Any]:
    """Answer a rebalance recommendation: no deadline, so only ask for a checkpoint."""
    found = _find(services, instance_id)
    if found is None:
        return {"status": NOT_OURS}
    _, attempt, _ = found
    known = {"run_id": attempt.run_id, "attempt": attempt.number}
    if attempt.stage is AttemptStage.ENDED:
        return {**known, "status": ALREADY_ENDED}
    reached = services.commands.send(instance_id, "checkpoint")
    return {**known, "status": ASKED if reached else AGENT_NOT_THERE}


def _find(services: Services, instance_id: str) -> tuple[Run, Attempt, Pool | None] | None:
    """Look the instance up; the rule cannot tell ours from anyone else's in the account."""
    found = find_owner(services, instance_id)
    run = services.ledger.find_run(found[0].run_id) if found else None
    return None if found is None or run is None else (run, *found)


def _relaunch(services: Services, run: Run, attempt: Attempt, pool: Pool | None) -> str:
    now = services.clock.now()
    if pool is not None:
        # First, so that the replacement is not asked of the pool that is taking this one.
        services.ledger.cool_pool(pool, until=now + AFTER_A_RECLAIM)
    attempts = [
        known for known in services.ledger.attempts(run.run_id) if known.number <= attempt.number
    ]
    policy = policy_of(run.request.kind)
    interrupted = Outcome(kind=OutcomeKind.INTERRUPTED)
    decision = decide(run, attempts, interrupted, policy=policy, now=now)
    if not policy.may_overlap or decision.kind is not DecisionKind.RELAUNCH:
        return NOT_RELAUNCHED
    try:
        launch = launch_instances(services, run.run_id, attempt.number + 1)
    except RunEndedError:
        return NOT_RELAUNCHED
    if isinstance(launch, LaunchedAttempt):
        return RELAUNCHED
    return NOT_RELAUNCHED if launch.outcome.kind is OutcomeKind.FAILED else NO_CAPACITY
