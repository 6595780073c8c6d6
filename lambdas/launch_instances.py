"""LaunchInstances: launches the machine of an attempt."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.launch_instances import launch_instances


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return whether the attempt has a machine, and the outcome if it has none."""
    logger.append_keys(run_id=event["run_id"], attempt=event["attempt"])
    result = launch_instances(services(), event["run_id"], event["attempt"])
    count("Launches" if result.launched else "Refusals")
    document = result.as_document()
    logger.info("launch settled", launched=result.launched, outcome=document.get("outcome"))
    return document
