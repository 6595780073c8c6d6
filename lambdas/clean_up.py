"""CleanUp: cleans up after an execution that ended without FinishRun."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.clean_up import clean_up

MAX_CAUSE = 1000


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return what was ended; the event comes from the state machine or from EventBridge."""
    ended = _status_change(event["detail"]) if "detail" in event else event
    logger.append_keys(execution=ended["name"], execution_status=ended["status"])
    cleaned = clean_up(
        services(),
        execution_arn=ended["execution_arn"],
        name=ended["name"],
        status=ended["status"],
        cause=(ended.get("cause") or "")[:MAX_CAUSE],
    )
    if cleaned.attempts_ended:
        count("CleanUps", execution_status=ended["status"])
    document = cleaned.as_document()
    logger.info("execution cleaned up", **document)
    return document


def _status_change(detail: Document) -> Document:
    return {
        "execution_arn": detail["executionArn"],
        "name": detail["name"],
        "status": detail["status"],
        "cause": detail.get("cause"),
    }
