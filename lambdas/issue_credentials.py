"""IssueCredentials: gives an instance a session that is limited to its own run."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.issue_credentials import issue_credentials


@logger.inject_lambda_context(clear_state=True, log_event=False)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the credentials of a session, or why the instance gets none."""
    issued = issue_credentials(services(), event)
    node = issued.node
    if node is not None:
        logger.append_keys(run_id=node.run_id, attempt=node.attempt, rank=node.rank)
    # Never the answer, which contains the credentials, nor the event, which proves an identity.
    logger.info("credentials asked for", status=issued.status, reason=issued.reason)
    return issued.as_document()
