"""The report that completes the Train task."""

import logging
import time
from datetime import timedelta

from runctl.agent.ports import Workflow
from runctl.agent.reporting.task_token import TaskToken
from runctl.model.errors import RunctlError
from runctl.model.outcome import Outcome

# Later than this the heartbeat has expired and the report is moot.
REPORT_TIMEOUT = timedelta(seconds=300)
# The longest wait of the Train task's own retries, and some more.
NEWER_TOKEN = timedelta(seconds=90)
NEWER_TOKEN_POLL = 1.0
FIRST_WAIT = 0.2
MAX_WAIT = 10.0

logger = logging.getLogger(__name__)


def report(
    workflow: Workflow,
    token: TaskToken,
    outcome: Outcome,
    *,
    within: timedelta = REPORT_TIMEOUT,
) -> bool:
    """Report to Step Functions how the attempt ended; return whether it accepted the report.

    Retries while that may help. If an answer was lost, the second try finds the token spent, and
    the ledger then explains why.
    """
    began = time.monotonic()
    until = began + within.total_seconds()
    wait = FIRST_WAIT
    while True:
        if not token.value:
            logger.info("the attempt never had a task token, so there is no task to report to")
            return False
        try:
            if workflow.report(token.value, {"outcome": outcome.as_document()}):
                at = "" if outcome.step is None else f" at step {outcome.step}"
                logger.info("reported %s%s", outcome.kind.value, at)
                return True
            if not token.find_newer():
                # Spent by our own report whose answer was lost, or by a retry of the task that has
                # not written its newer token yet; then that one comes within the retry's wait.
                late = min(until, began + NEWER_TOKEN.total_seconds())
                if token.is_over or time.monotonic() > late:
                    logger.info("the report was refused: its token is spent")
                    return False
                time.sleep(NEWER_TOKEN_POLL)
        except RunctlError as exc:
            logger.warning("the report failed: %s", exc)
            if time.monotonic() + wait > until:
                return False
            time.sleep(wait)
            wait = min(2 * wait, MAX_WAIT)
