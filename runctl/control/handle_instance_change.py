"""HandleInstanceChange: reports for an attempt whose machines are gone."""

from collections.abc import Mapping
from typing import Any

from runctl.control.ending import report_unheard
from runctl.control.instance_lookup import find_node
from runctl.control.ports import Services
from runctl.model.ec2_events import read_instance_id
from runctl.model.launch_failure import explain_launch_failure
from runctl.model.node import Node
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.node_loss import Loss, on_node_loss, outcome_of_loss

NOT_OURS = "not_ours"
STILL_RUNNING = "still_running"
ALREADY_ENDED = "already_ended"
ASKED_TO_DRAIN = "asked_to_drain"
UNREADABLE = "unreadable"

# While it shuts down the agent may still save and report; moving the fence would refuse that.
GONE = frozenset({"terminated", "stopped"})


def handle_event(services: Services, event: Mapping[str, Any]) -> dict[str, Any]:
    """Handle a state-change event of EventBridge; an unreadable event changes nothing."""
    detail = event.get("detail")
    instance_id = read_instance_id(detail) if isinstance(detail, Mapping) else ""
    state = detail.get("state") if isinstance(detail, Mapping) else None
    if not instance_id or not isinstance(state, str):
        return {"status": UNREADABLE}
    handled = handle_instance_change(services, instance_id, state)
    return {"instance_id": instance_id, "state": state, **handled}


def handle_instance_change(services: Services, instance_id: str, state: str) -> dict[str, Any]:
    """Report the loss at once, so that the state machine need not wait for the heartbeat to expire.

    An agent that has reported shuts its machine down, and this event may overtake
    ConfirmCheckpoint. Such an attempt is not lost: its report used the token up.
    """
    found = find_node(services, instance_id)
    if found is None:
        return {"status": NOT_OURS}
    attempt, node = found
    known = {"run_id": attempt.run_id, "attempt": attempt.number}
    if state not in GONE:
        return {**known, "status": STILL_RUNNING}
    if attempt.stage is AttemptStage.ENDED:
        return {**known, "status": ALREADY_ENDED}
    services.ledger.record_gone(node.node_id)
    consequence = on_node_loss(attempt, attempt.nodes, node, loss=Loss.GONE)
    for other in consequence.drain:
        services.commands.send(other.instance_id, "drain")
    if not consequence.is_unreported:
        return {**known, "status": ASKED_TO_DRAIN}
    outcome = _outcome(services, attempt, node, state)
    return {**known, "status": report_unheard(services, attempt, outcome)}


def _outcome(services: Services, attempt: Attempt, node: Node, state: str) -> Outcome:
    machine = next(iter(services.fleet.describe([node.instance_id])), None)
    if machine is not None and (failure := explain_launch_failure(machine, attempt)):
        return failure
    return outcome_of_loss(node, state, machine)
