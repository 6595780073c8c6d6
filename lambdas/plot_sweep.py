"""PlotSweep: stores the plots of a sweep that has ended."""

import os
import tempfile

from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.services import Document, logger, services
from runctl.control.sweeps.plot_sweep import plot_sweep


@logger.inject_lambda_context(clear_state=True)
def handler(event: Document, _context: LambdaContext) -> Document:
    """Return the PlottedSweep."""
    logger.append_keys(group_id=event["group_id"])
    with tempfile.TemporaryDirectory() as folder:
        # When it is imported, matplotlib writes a list of the fonts, and a function has only /tmp.
        os.environ["MPLCONFIGDIR"] = folder
        plotted = plot_sweep(services(), event["group_id"])
    logger.info("sweep plotted", plots=len(plotted.plots), reason=plotted.reason)
    return plotted.as_document()
