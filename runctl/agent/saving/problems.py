"""Problems with saving: shown in the run's status while they last, and logged once."""

import logging
from collections.abc import Sequence

from runctl.agent.reporting.progress import Progress
from runctl.checkpoint.databases import Databases
from runctl.checkpoint.settling import Settling
from runctl.model.excerpt import shorten_reason

MAX_WARNING_LENGTH = 300
MAX_ITEMS_SHOWN = 3
NEVER_CLOSED = (
    ": open for writing all the time, and cannot be saved while the trainer runs. Close a file "
    "after each save, or write to another name and rename it"
)

logger = logging.getLogger(__name__)


def show_problem(progress: Progress, problem: str, *, about: str) -> None:
    """Show a problem in the status, and log it if it is new; an empty text clears it."""
    if progress.warn(shorten_reason(problem, MAX_WARNING_LENGTH), about=about) and problem:
        logger.warning("%s", problem)


def show_folder_problems(
    progress: Progress, settling: Settling, databases: Databases, *, now: float
) -> None:
    """Name the files that cannot be saved, with the reason and a remedy."""
    for reason in settling.wholeness.newly_tolerated():
        logger.info("accepted as it is: %s", reason)
    lasting = settling.wholeness.lasting_problems(now)
    show_problem(progress, _listed(lasting, suffix="; not saved"), about="incomplete")
    of_databases = [text for _, text in sorted(databases.problems.items())]
    show_problem(progress, _listed(of_databases), about="database")
    never_closed = _listed(settling.never_closed(now))
    show_problem(progress, f"{never_closed}{NEVER_CLOSED}" if never_closed else "", about="open")


def _listed(items: Sequence[str], *, suffix: str = "") -> str:
    """Return the first few items, each with `suffix`, and the number of the others."""
    text = ", ".join(f"{item}{suffix}" for item in items[:MAX_ITEMS_SHOWN])
    more = len(items) - MAX_ITEMS_SHOWN
    return f"{text} and {more} more" if more > 0 else text
