"""Problems with saving: shown in the run's status while they last, and logged once."""

import logging

from runctl.agent.reporting.progress import Progress
from runctl.model.excerpt import shorten_reason

MAX_WARNING_LENGTH = 300

logger = logging.getLogger(__name__)


def show_problem(progress: Progress, problem: str, *, about: str) -> None:
    """Show a problem in the status, and log it if it is new; an empty text clears it."""
    if progress.warn(shorten_reason(problem, MAX_WARNING_LENGTH), about=about) and problem:
        logger.warning("%s", problem)
