"""The report that completes a Train task."""

from typing import Any

from runctl.control.ports import Services
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt

REPORTED = "reported"
TOLD_BEFORE = "told_before"
ENDED = "ended"


def report_document(outcome: Outcome) -> dict[str, Any]:
    """Return the report of an outcome, as the agent writes it too."""
    return {"outcome": outcome.as_document()}


def end_unheard(services: Services, attempt: Attempt, outcome: Outcome) -> str:
    """Report for an attempt whose agent cannot any more; return what came of it.

    An agent's own report used the token up, so ours is refused and nothing is recorded here. Only
    an attempt without a token, which nobody can report on, is ended in the ledger; LaunchInstances
    or StartTraining then answers for it.
    """
    if not attempt.token:
        attempt = services.ledger.end_attempt(
            attempt.run_id, attempt.number, outcome=outcome, now=services.clock.now()
        )
        # StartTraining may have stored its token between our read and our write: then it has not
        # seen the end, and only we can report it.
        if not attempt.token:
            return ENDED
    told = services.workflow.report(attempt.token, report_document(outcome))
    return REPORTED if told else TOLD_BEFORE
