"""PruneEnvironments: removes stored environments that no run needs, once a day."""

import os
from datetime import timedelta

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.prune_environments import prune_environments


@logger.inject_lambda_context(clear_state=True)
def handler(_event: Document, _context: LambdaContext) -> Document:
    """Return what was removed."""
    days = int(os.environ["RUNCTL_ENVIRONMENT_DAYS"])
    pruned = prune_environments(services(), keep=timedelta(days=days))
    if pruned.removed:
        count("PrunedEnvironments", len(pruned.removed))
    document = pruned.as_document()
    logger.info("pruned", **document)
    return document
