"""PrepareSweep: validates the request of a sweep, and records the sweep or continues it."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.execution_start import ExecutionStart
from runctl.control.sweeps.prepare_sweep import prepare_sweep


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the sweep and the trials to run."""
    execution = ExecutionStart.from_context(event["execution"])
    logger.append_keys(execution=execution.name)
    prepared = prepare_sweep(services(), execution, event["input"])
    logger.info("sweep prepared", group_id=prepared.group_id, trials=len(prepared.numbers))
    return prepared.as_document()
