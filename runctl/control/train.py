"""Train: hand the task token to the attempt, whose agent waits for it."""

from typing import Any

from runctl.control.ports import Services
from runctl.control.reports import report_document

STARTED = "started"
ALREADY_ENDED = "already_ended"


def train(
    services: Services, run_id: str, number: int, *, token: str, execution_arn: str
) -> dict[str, Any]:
    """Store the token and move the fence; an attempt that has ended is reported at once."""
    attempt = services.ledger.record_token(
        run_id, number, token=token, execution_arn=execution_arn, now=services.clock.now()
    )
    if attempt.ended is None:
        return {"run_id": run_id, "attempt": number, "status": STARTED}
    # Its machine went before the token came. Nobody else has this token, so nobody else can tell;
    # a repeated call finds the token used up, which is fine.
    services.workflow.report(token, report_document(attempt.ended))
    return {"run_id": run_id, "attempt": number, "status": ALREADY_ENDED}
