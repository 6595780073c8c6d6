"""FinishProcessing: makes one dataset of what the runs of a job processed, and ends the job."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.processing.finish_processing import finish_processing


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the ProcessingResult."""
    logger.append_keys(group_id=event["group_id"])
    result = finish_processing(
        services(),
        event["group_id"],
        execution_arn=event["execution_arn"],
        cause=event["cause"],
    )
    count("JobsEnded", status=result.status.value)
    logger.info("job ended", status=result.status.value, reason=result.reason)
    return result.as_document()
