"""The place of this instance in a gang: its rank, which only the ledger knows."""

import logging
import random
from datetime import timedelta

from runctl.agent.instance.settings import Settings
from runctl.agent.signals.mailbox import Mailbox
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RunctlError
from runctl.model.node import Node

POLL = timedelta(milliseconds=500)
MAX_POLL = timedelta(seconds=10)
SLOWER = 1.25

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


def find_node(settings: Settings, ledger: AgentLedger, mailbox: Mailbox) -> Node | None:
    """Return the node that this instance is, in a gang as soon as its launch is recorded.

    All machines of a gang's launch have the same tags. The result is None if this instance is none
    of the attempt's, or is to end before that is known.
    """
    if not settings.is_gang:
        return Node(run_id=settings.run_id, attempt=settings.attempt, rank=settings.rank)
    poll = POLL.total_seconds()
    while mailbox.ending is None:
        try:
            run = ledger.find_run(settings.run_id)
            attempt = ledger.find_attempt(settings.run_id, settings.attempt)
        except RunctlError as exc:
            logger.warning("the ledger cannot be read at the moment: %s", exc)
        else:
            if run is not None and run.ended is not None:
                logger.info("the run has ended: %s", run.ended.value)
                return None
            node = None if attempt is None else attempt.node_of(settings.instance_id)
            if node is not None:
                return node
            if attempt is not None and (attempt.was_launched or attempt.ended is not None):
                logger.info("the attempt is on other instances")
                return None
        # Usually the launch is recorded within a second or two, but while EC2 or DynamoDB refuse,
        # all machines of the gang would read the ledger twice a second.
        mailbox.wait(poll * _RANDOM.uniform(0.8, 1.2))
        poll = min(SLOWER * poll, MAX_POLL.total_seconds())
    return None
