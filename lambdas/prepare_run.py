"""PrepareRun: validates the request, and records the run in the ledger or continues it."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.execution_start import ExecutionStart
from runctl.control.prepare_run import prepare_run


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return {"run_id", "attempt"}: the run, and the number of its next attempt."""
    execution = ExecutionStart.from_context(event["execution"])
    logger.append_keys(execution=execution.name)
    prepared = prepare_run(services(), execution, event["input"])
    document = prepared.as_document()
    logger.info("run prepared", **document)
    return document
