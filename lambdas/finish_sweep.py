"""FinishSweep: stores the results of a sweep and records its end."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.sweeps.finish_sweep import finish_sweep


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the SweepResult."""
    logger.append_keys(group_id=event["group_id"])
    result = finish_sweep(services(), event["group_id"], execution_arn=event["execution_arn"])
    count("SweepsEnded", status=result.status.value)
    logger.info("sweep ended", status=result.status.value, reason=result.reason)
    return result.as_document()
