"""DecideNext: the decision after an attempt has ended."""

import os

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.decide_next import MAX_TURNS, decide_next
from runctl.model.decision import DecisionKind


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the decision, the number of the next attempt, and the wait before it."""
    logger.append_keys(run_id=event["run_id"], attempt=event["attempt"])
    decided = decide_next(
        services(),
        event["run_id"],
        event["attempt"],
        event["outcome"],
        max_turns=int(os.environ.get("RUNCTL_MAX_TURNS", MAX_TURNS)),
    )
    if decided.decision is DecisionKind.RELAUNCH:
        count("Relaunches")
    logger.info("decided", decision=decided.decision.value, reason=decided.reason)
    return decided.as_document()
