"""JudgeTrial: answers the agent of a trial whether it goes on after a rung."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.sweeps.judge_trial import judge_trial


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return whether the trial goes on."""
    logger.append_keys(run_id=event["run_id"])
    judged = judge_trial(
        services(), event["run_id"], rung=int(event["rung"]), value=float(event["value"])
    )
    document = judged.as_document()
    logger.info("trial judged", **document)
    return document
