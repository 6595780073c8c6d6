"""An instance of ours goes away: report for an attempt that cannot any more."""

from collections.abc import Mapping
from typing import Any

from runctl.control.owners import find_owner
from runctl.control.ports import Services
from runctl.control.reports import end_unheard
from runctl.model.ec2_events import read_instance_id
from runctl.model.launch_failure import explain_launch_failure
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage

NOT_OURS = "not_ours"
STILL_RUNNING = "still_running"
ALREADY_ENDED = "already_ended"
UNREADABLE = "unreadable"

# While it shuts down the agent may still save and report; moving the fence would refuse that.
GONE = frozenset({"terminated", "stopped"})


def handle_event(services: Services, event: Mapping[str, Any]) -> dict[str, Any]:
    """Handle a state-change event of EventBridge; one that cannot be read changes nothing."""
    detail = event.get("detail")
    instance_id = read_instance_id(detail) if isinstance(detail, Mapping) else ""
    state = detail.get("state") if isinstance(detail, Mapping) else None
    if not instance_id or not isinstance(state, str):
        return {"status": UNREADABLE}
    handled = handle_instance_change(services, instance_id, state)
    return {"instance_id": instance_id, "state": state, **handled}


def handle_instance_change(services: Services, instance_id: str, state: str) -> dict[str, Any]:
    """Tell the state machine at once, so that it need not wait for the heartbeat to expire.

    An agent that has reported shuts its machine down, and this event may overtake
    ConfirmCheckpoint. That is no lost attempt: its report used the token up.
    """
    found = find_owner(services, instance_id)
    if found is None:
        return {"status": NOT_OURS}
    attempt, _ = found
    known = {"run_id": attempt.run_id, "attempt": attempt.number}
    if state not in GONE:
        return {**known, "status": STILL_RUNNING}
    if attempt.stage is AttemptStage.ENDED:
        return {**known, "status": ALREADY_ENDED}
    outcome = _outcome(services, attempt, instance_id, state)
    return {**known, "status": end_unheard(services, attempt, outcome)}


def _outcome(services: Services, attempt: Attempt, instance_id: str, state: str) -> Outcome:
    machine = next(iter(services.fleet.describe([instance_id])), None)
    if machine is not None and (failure := explain_launch_failure(machine, attempt)):
        return failure
    reason = machine.reason if machine is not None else ""
    taken = machine is not None and machine.was_reclaimed
    kind = OutcomeKind.INTERRUPTED if taken or attempt.noticed_at else OutcomeKind.LOST
    told = f"{instance_id} is {state}" + (f" ({reason})" if reason else "")
    return Outcome(kind=kind, reason=told)
