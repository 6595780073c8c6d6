"""SuggestTrial: chooses the hyperparameters of a trial by what the sweep has learned."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.sweeps.suggest_trial import suggest_trial
from runctl.policy.tree_parzen import suggest


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the trial, which the ledger now has."""
    logger.append_keys(group_id=event["group_id"], trial=event["number"])
    suggested = suggest_trial(services(), event["group_id"], event["number"], sampler=suggest)
    logger.info("trial suggested")
    return suggested.as_document()
