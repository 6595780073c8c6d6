"""FinishRun: records the end of the run, leaves nothing running, and returns the result."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.finish_run import finish_run


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the RunResult."""
    logger.append_keys(run_id=event["run_id"])
    result = finish_run(
        services(),
        event["run_id"],
        status=event["status"],
        reason=event["reason"],
        # An execution keeps its definition; those of earlier versions do not pass this.
        execution_arn=event.get("execution_arn"),
    )
    count("RunsEnded", status=result.status.value)
    logger.info("run ended", status=result.status.value, reason=result.reason)
    return result.as_document()
