"""Train: gives the task token to the attempt, whose agent waits for it."""

from runctl.control.ports.services import Services
from runctl.control.results import TrainReport, TrainStart, TrainStatus


def train(
    services: Services, run_id: str, number: int, *, token: str, execution_arn: str
) -> TrainStart:
    """Store the token and move the fence; an attempt that has ended is reported at once."""
    attempt = services.ledger.record_token(
        run_id, number, token=token, execution_arn=execution_arn, now=services.clock.now()
    )
    if attempt.ended is None:
        return TrainStart(run_id=run_id, attempt=number, status=TrainStatus.STARTED)
    # Its machine was lost before the token arrived. Nobody else has this token, so nobody else can
    # report; a repeated call finds the token used up, which does no harm.
    services.workflow.report(token, TrainReport(outcome=attempt.ended).as_document())
    return TrainStart(run_id=run_id, attempt=number, status=TrainStatus.ALREADY_ENDED)
