"""Reconcile: makes up for lost events, on a schedule."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.reconcile import reconcile


@logger.inject_lambda_context(clear_state=True)
def handler(_event: Document, _context: LambdaContext) -> Document:
    """Return what was checked, cleaned up and terminated, and the failures."""
    done = reconcile(services())
    for name, found in (
        ("ReconciledRuns", done.cleaned),
        ("TerminatedMachines", done.terminated),
        ("DeletedFleets", done.fleets_deleted),
        ("ReplacedMachines", done.replaced),
        ("FailedReconciliations", done.failed),
    ):
        if found:
            count(name, len(found))
    document = done.as_document()
    logger.info("reconciled", **document)
    return document
