"""PrepareRun: validates the request, and records the run in the ledger or continues it."""

from datetime import datetime, timezone

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.prepare_run import ExecutionStart, prepare_run


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return {"run_id", "attempt"}: the run, and the number of its next attempt."""
    execution = ExecutionStart(
        arn=event["execution"]["arn"],
        name=event["execution"]["name"],
        started_at=_instant(event["execution"]["start_time"]),
    )
    logger.append_keys(execution=execution.name)
    prepared = prepare_run(services(), execution, event["input"])
    document = prepared.as_document()
    logger.info("run prepared", **document)
    return document


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
