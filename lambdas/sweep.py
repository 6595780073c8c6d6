"""Sweep: makes up for lost events, on a schedule."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, count, logger, services
from runctl.control.sweep import sweep


@logger.inject_lambda_context(clear_state=True)
def handler(_event: Document, _context: LambdaContext) -> Document:
    """Return what was checked, cleaned up and terminated, and the failures."""
    swept = sweep(services())
    for name, found in (
        ("SweptRuns", swept.cleaned),
        ("SweptMachines", swept.terminated),
        ("SweptFleets", swept.fleets_deleted),
        ("ReplacedMachines", swept.replaced),
        ("FailedSweeps", swept.failed),
    ):
        if found:
            count(name, len(found))
    document = swept.as_document()
    logger.info("swept", **document)
    return document
