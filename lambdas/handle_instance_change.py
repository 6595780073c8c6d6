"""HandleInstanceChange: reports for an attempt whose instance is gone."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.handle_instance_change import handle_event


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return what was done."""
    document = handle_event(services(), event).as_document()
    logger.info("instance change handled", **document)
    return document
