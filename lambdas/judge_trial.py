"""JudgeTrial: answers the agent of a trial whether it goes on after a rung."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.sweeps.judge_trial import answer_trial


# Never the event, which proves an identity.
@logger.inject_lambda_context(clear_state=True, log_event=False)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return whether the trial goes on, or that the one who asks is refused."""
    logger.append_keys(run_id=event["run_id"])
    document = answer_trial(services(), event).as_document()
    logger.info("trial judged", **document)
    return document
