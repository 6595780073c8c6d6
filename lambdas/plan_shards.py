"""PlanShards: validates and plans a processing job on several instances, or resumes it."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.execution_start import ExecutionStart
from runctl.control.processing.plan_shards import plan_shards


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the job and its batches."""
    execution = ExecutionStart.from_context(event["execution"])
    logger.append_keys(execution=execution.name)
    planned = plan_shards(services(), execution, event["input"])
    logger.info("job planned", group_id=planned.group_id, batches=len(planned.batches))
    return planned.as_document()
