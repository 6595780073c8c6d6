"""ConfirmCheckpoint: stores how the attempt ended, and its newest checkpoint."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.confirm_checkpoint import confirm_checkpoint


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the stored outcome and the newest whole checkpoint."""
    logger.append_keys(run_id=event["run_id"], attempt=event["attempt"])
    confirmed = confirm_checkpoint(services(), event["run_id"], event["attempt"], event["outcome"])
    count("AttemptsEnded", outcome=confirmed.outcome.kind.value)
    document = confirmed.as_document()
    logger.info("attempt ended", outcome=document["outcome"], step=confirmed.step)
    return document
