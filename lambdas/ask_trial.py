"""AskTrial: returns what runs a trial of a sweep."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.sweeps.ask_trial import ask_trial


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the name and the input of the trial's execution, or that nothing is to be started."""
    logger.append_keys(group_id=event["group_id"], trial=event["number"])
    asked = ask_trial(services(), event["group_id"], event["number"])
    logger.info("trial asked", start=asked.start)
    return asked.as_document()
