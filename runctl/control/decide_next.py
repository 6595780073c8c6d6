"""DecideNext: what follows the attempt that ended."""

from collections.abc import Mapping
from typing import Any

from runctl.control.ports import Services
from runctl.model.decision import Decision, DecisionKind, decide
from runctl.model.errors import NotFoundError
from runctl.model.outcome import Outcome


def decide_next(
    services: Services, run_id: str, number: int, outcome: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the decision; it changes nothing, so it may be asked for again."""
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    # A replacement launched inside the notice is on record already; it is not what ended.
    attempts = [one for one in services.ledger.attempts(run_id) if one.number <= number]
    if run.ended is not None:
        decision = Decision(kind=DecisionKind.FINISH, status=run.ended, reason=run.reason)
    else:
        ended = Outcome.from_document(dict(outcome))
        decision = decide(run, attempts, ended, now=services.clock.now())
    document: dict[str, Any] = {
        "run_id": run_id,
        "decision": decision.kind.value,
        "attempt": number + 1 if decision.kind is DecisionKind.RELAUNCH else number,
        "wait_seconds": int(decision.wait.total_seconds()),
        "reason": decision.reason,
    }
    if decision.status is not None:
        document["status"] = decision.status.value
    return document
