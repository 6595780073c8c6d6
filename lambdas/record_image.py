"""RecordImage: records the image that a build has made, or returns how the run ends."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.record_image import record_image


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return {"run_id", "recorded"}, and without an image the run's "status" and "reason"."""
    logger.append_keys(run_id=event["run_id"])
    result = record_image(
        services(),
        event["run_id"],
        tag=event["tag"],
        build_id=event["build_id"],
        cause=event["cause"],
    )
    logger.info("image recorded" if result.recorded else "no image")
    return result.as_document()
