"""HandleInstanceChange: reports for an attempt whose machines are gone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runctl.control.ending import report_unheard
from runctl.control.instance_lookup import find_node, was_kept
from runctl.control.ports.services import Services
from runctl.control.results import InstanceChangeResult, InstanceChangeStatus
from runctl.control.warm_instances import release
from runctl.model.ec2_events import read_instance_id
from runctl.model.launch_failure import explain_launch_failure
from runctl.model.node import Node
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.gang import is_of_gang, is_spare
from runctl.policy.node_loss import Loss, on_node_loss, outcome_of_loss

# While it shuts down the agent may still save and report; moving the fence would refuse that.
GONE = frozenset({"terminated", "stopped"})


def handle_event(services: Services, event: Mapping[str, Any]) -> InstanceChangeResult:
    """Handle a state-change event of EventBridge; an unreadable event changes nothing."""
    detail = event.get("detail")
    instance_id = read_instance_id(detail) if isinstance(detail, Mapping) else ""
    state = detail.get("state") if isinstance(detail, Mapping) else None
    if not instance_id or not isinstance(state, str):
        return InstanceChangeResult(status=InstanceChangeStatus.UNREADABLE)
    handled = handle_instance_change(services, instance_id, state)
    return replace(handled, instance_id=instance_id, state=state)


def handle_instance_change(
    services: Services, instance_id: str, state: str
) -> InstanceChangeResult:
    """Report the loss at once, so that the state machine need not wait for the heartbeat to expire.

    An agent that has reported shuts its machine down, and this event may overtake
    ConfirmCheckpoint. Such an attempt is not lost: its report used the token up.
    """
    found = find_node(services, instance_id)
    if found is None:
        return InstanceChangeResult(status=InstanceChangeStatus.NOT_OURS)
    attempt, node = found
    if state not in GONE:
        return _result(attempt, InstanceChangeStatus.STILL_RUNNING)
    is_gang = is_of_gang(attempt)
    run = None
    if is_gang or attempt.stage is AttemptStage.ENDED:
        run = services.ledger.find_run(attempt.run_id)
    if is_gang and attempt.stage is AttemptStage.LAUNCHING:
        # The launch that is being recorded would hide that it is gone.
        services.ledger.record_notice(node.node_id, now=services.clock.now())
    elif is_gang or attempt.stage is not AttemptStage.ENDED:
        services.ledger.record_gone(node.node_id)
        # When nodes are lost in the same moment, the call that records the last of them has to see
        # the others' losses: no agent is left that would report.
        attempt = services.ledger.find_attempt(attempt.run_id, attempt.number) or attempt
    if was_kept(services, run, node) or (
        attempt.stage is AttemptStage.ENDED and release(services, run, node.node_id, instance_id)
    ):
        return handle_instance_change(services, instance_id, state)
    if attempt.stage is AttemptStage.ENDED:
        return _result(attempt, InstanceChangeStatus.ALREADY_ENDED)
    spare = run is not None and is_spare(run, node)
    consequence = on_node_loss(attempt, node, loss=Loss.GONE, is_spare=spare)
    if not consequence.is_unreported:
        return _result(attempt, InstanceChangeStatus.OTHERS_REPORT)
    outcome = _outcome(services, attempt, node, state)
    report = report_unheard(services, attempt, outcome)
    return _result(attempt, InstanceChangeStatus(report.value))


def _result(attempt: Attempt, status: InstanceChangeStatus) -> InstanceChangeResult:
    return InstanceChangeResult(status=status, run_id=attempt.run_id, attempt=attempt.number)


def _outcome(services: Services, attempt: Attempt, node: Node, state: str) -> Outcome:
    machine = next(iter(services.fleet.describe([node.instance_id])), None)
    if machine is not None and (failure := explain_launch_failure(machine, attempt)):
        return failure
    return outcome_of_loss(node, state, machine)
