"""HandleInterruption: replaces an instance that EC2 is about to take, and lets it drain."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from runctl.control.instance_lookup import find_node, was_kept
from runctl.control.launch_gang import end_before_token
from runctl.control.launch_instances import launch_instances
from runctl.control.ports.services import Services
from runctl.control.results import InterruptionResult, InterruptionStatus, LaunchedAttempt
from runctl.control.warm_instances import release
from runctl.model.decision import DecisionKind, decide
from runctl.model.ec2_events import EventKind, read_event
from runctl.model.errors import RunEndedError
from runctl.model.kinds import policy_of
from runctl.model.node import Node
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.policy.capacity import AFTER_A_RECLAIM
from runctl.policy.gang import is_spare, saving_instance
from runctl.policy.node_loss import Loss, on_node_loss


def handle_event(services: Services, event: Mapping[str, Any]) -> InterruptionResult:
    """Handle an event of EventBridge about an instance; an unreadable event changes nothing.

    An error would only cause another delivery of the same event.
    """
    found = read_event(event)
    if found is None:
        return InterruptionResult(status=InterruptionStatus.UNREADABLE)
    if found.kind is EventKind.REBALANCE:
        handled = handle_rebalance(services, found.instance_id)
    else:
        handled = handle_interruption(services, found.instance_id, deadline=found.deadline)
    return replace(handled, event=found.kind.value, instance_id=found.instance_id)


def handle_interruption(
    services: Services, instance_id: str, *, deadline: datetime | None = None
) -> InterruptionResult:
    """Handle an interruption warning; every step may be repeated by a second delivery.

    The state machine decides for itself once the attempt has reported. It adopts what is launched
    here, and if it decides otherwise, FinishRun ends it. `deadline` is that of a warning which the
    instance metadata do not show: then only the command informs the agent.
    """
    found = _find(services, instance_id)
    if found is None:
        return InterruptionResult(status=InterruptionStatus.NOT_OURS)
    run, attempt, node = found
    is_gang = run.request.gang.is_gang
    # Late or delivered again: the state machine is ahead, and decides what follows.
    if attempt.stage is AttemptStage.ENDED or run.ended is not None:
        if run.request.group or is_gang:
            services.ledger.record_notice(node.node_id, now=services.clock.now())
        if release(services, run, node.node_id, instance_id) or was_kept(services, run, node):
            return handle_interruption(services, instance_id, deadline=deadline)
        return _result(attempt, InterruptionStatus.ALREADY_ENDED)
    services.ledger.record_notice(node.node_id, now=services.clock.now())
    consequence = on_node_loss(attempt, node, loss=Loss.ANNOUNCED, is_spare=is_spare(run, node))
    drain = partial(_drain, services, consequence.drain, noticed=node, deadline=deadline)
    # The other nodes of a gang learn it from the command: the launch may take several requests.
    reached = drain() if is_gang else None
    if consequence.is_unreported:
        end_before_token(services, attempt, instance_id)
    status = InterruptionStatus.NOT_RELAUNCHED
    try:
        if consequence.ends:
            status = _relaunch(services, run, attempt, node)
    finally:
        # After the launch, whatever its result: the boot of the replacement takes longer.
        # The agent watches the instance metadata, too, so after a spot notice a command that does
        # not reach it costs nothing.
        reached = drain() if reached is None else reached
    if was_kept(services, run, node):
        # For the next attempt, by a launch that did not know of the notice yet.
        return handle_interruption(services, instance_id, deadline=deadline)
    return replace(_result(attempt, status), agent_reached=reached)


def _drain(
    services: Services, nodes: Sequence[Node], *, noticed: Node, deadline: datetime | None
) -> bool:
    """Ask agents to save and report; return whether that of the noticed machine was reached."""
    reached = {
        node.rank: services.commands.send(
            node.instance_id, "drain", deadline=deadline if node.rank == noticed.rank else None
        )
        for node in nodes
    }
    return reached.get(noticed.rank, False)


def handle_rebalance(services: Services, instance_id: str) -> InterruptionResult:
    """Handle a rebalance recommendation: it has no deadline, so only ask for a checkpoint."""
    found = _find(services, instance_id)
    if found is None:
        return InterruptionResult(status=InterruptionStatus.NOT_OURS)
    _, attempt, _ = found
    if attempt.stage is AttemptStage.ENDED:
        return _result(attempt, InterruptionStatus.ALREADY_ENDED)
    reached = services.commands.send(saving_instance(attempt, instance_id), "checkpoint")
    return _result(
        attempt, InterruptionStatus.ASKED if reached else InterruptionStatus.AGENT_NOT_THERE
    )


def _result(attempt: Attempt, status: InterruptionStatus) -> InterruptionResult:
    return InterruptionResult(status=status, run_id=attempt.run_id, attempt=attempt.number)


def _find(services: Services, instance_id: str) -> tuple[Run, Attempt, Node] | None:
    """Look the instance up; the rule matches every instance of the account."""
    found = find_node(services, instance_id)
    run = services.ledger.find_run(found[0].run_id) if found else None
    return None if found is None or run is None else (run, *found)


def _relaunch(services: Services, run: Run, attempt: Attempt, node: Node) -> InterruptionStatus:
    if node.pool:
        # First, so that the replacement is not requested from the pool that is taking this one.
        until = services.clock.now() + AFTER_A_RECLAIM
        services.ledger.cool_pool(Pool.parse(node.pool), until=until)
    return _launch_after(services, run, attempt.number)


def _launch_after(services: Services, run: Run, number: int) -> InterruptionStatus:
    """Launch the attempt after `number`, which is interrupted."""
    attempts = [
        earlier for earlier in services.ledger.attempts(run.run_id) if earlier.number <= number
    ]
    policy = policy_of(run.request.kind)
    interrupted = Outcome(kind=OutcomeKind.INTERRUPTED)
    decision = decide(run, attempts, interrupted, policy=policy, now=services.clock.now())
    if not policy.may_overlap or decision.kind is not DecisionKind.RELAUNCH:
        return InterruptionStatus.NOT_RELAUNCHED
    try:
        launch = launch_instances(services, run.run_id, number + 1)
    except RunEndedError:
        return InterruptionStatus.NOT_RELAUNCHED
    if isinstance(launch, LaunchedAttempt):
        return InterruptionStatus.RELAUNCHED
    if launch.outcome.kind is OutcomeKind.FAILED:
        return InterruptionStatus.NOT_RELAUNCHED
    if launch.outcome.kind is OutcomeKind.INTERRUPTED and run.request.gang.is_gang:
        # It lost a machine before it began.
        return _launch_after(services, run, number + 1)
    return InterruptionStatus.NO_CAPACITY
