"""RecordTrial: records how a trial of a sweep ended."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.sweeps.record_trial import record_trial


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the state of the trial, and whether its run goes on."""
    logger.append_keys(group_id=event["group_id"], trial=event["number"])
    recorded = record_trial(services(), event["group_id"], event["number"], cause=event["cause"])
    if not recorded.is_running:
        count("TrialsEnded", state=recorded.state.value)
    document = recorded.as_document()
    logger.info("trial recorded", **document)
    return document
