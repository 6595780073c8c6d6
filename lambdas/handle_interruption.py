"""HandleInterruption: handles the events that announce the loss of an instance."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.handle_interruption import handle_event

METRICS = {
    "interruption": "Interruptions",
    "reservation": "ReservationInterruptions",
    "rebalance": "RebalanceRecommendations",
}


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return what was done."""
    handled = handle_event(services(), event)
    count(METRICS.get(handled.event or "", "UnreadableEvents"), status=handled.status.value)
    document = handled.as_document()
    logger.info("event handled", detail_type=event.get("detail-type"), **document)
    return document
