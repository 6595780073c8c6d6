"""EC2 is about to take an instance, or says that it may: both events of EventBridge."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.handle_interruption import handle_interruption, handle_rebalance

WARNING = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Answer what was done about it."""
    instance_id = event["detail"]["instance-id"]
    logger.append_keys(instance_id=instance_id)
    if event["detail-type"] == WARNING:
        handled = handle_interruption(services(), instance_id)
        count("Interruptions", status=handled["status"])
        logger.info("interruption warning handled", **handled)
    elif event["detail-type"] == REBALANCE:
        handled = handle_rebalance(services(), instance_id)
        count("RebalanceRecommendations", status=handled["status"])
        logger.info("rebalance recommendation handled", **handled)
    else:
        raise ValueError(f"no rule of ours sends {event['detail-type']!r}")
    return handled
