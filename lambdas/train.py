"""Train: gives the task token to the attempt, whose agent waits for it."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.train import train


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return whether the token was stored; the task continues until its outcome is reported."""
    logger.append_keys(run_id=event["run_id"], attempt=event["attempt"])
    started = train(
        services(),
        event["run_id"],
        event["attempt"],
        token=event["token"],
        execution_arn=event["execution_arn"],
    )
    logger.info("token stored", status=started.status.value)
    return started.as_document()
