"""The stay of an instance between two attempts of its gang, which goes on with it."""

import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.agent.instance.settings import Settings
from runctl.agent.signals.mailbox import Mailbox
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RunctlError
from runctl.model.node import NodeId

POLL = timedelta(seconds=1)
MAX_POLL = timedelta(seconds=10)
# A gang that cannot be repaired for 10 minutes is launched anew, without its earlier machines.
MAX_STAY = timedelta(minutes=20)

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


class GangStay:
    """Waits for a later attempt of the run that has this instance.

    Meanwhile the node of the last attempt keeps reporting, by which the control functions know that
    the machine is still there; `end_reports` stops that.
    """

    def __init__(
        self, ledger: AgentLedger, settings: Settings, *, end_reports: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._end_reports = end_reports
        self._newest = settings.attempt

    def wait(self, mailbox: Mailbox, *, is_noticed: Callable[[], bool]) -> NodeId | None:
        """Wait for the next attempt; return its node, or None if this instance is to end.

        It ends after a notice or a stop request, with the run, when a later attempt was launched
        without it, or when there is none in 20 minutes.
        """
        try:
            return self._wait(mailbox, is_noticed)
        finally:
            self._end_reports()

    def _wait(self, mailbox: Mailbox, is_noticed: Callable[[], bool]) -> NodeId | None:
        until = time.monotonic() + MAX_STAY.total_seconds()
        poll = POLL
        logger.info("waiting for the next attempt of the run")
        while time.monotonic() < until:
            if mailbox.ending is not None or is_noticed():
                self._record_notice(mailbox)
                return None
            try:
                has_ended, node = self._read_ledger()
            except RunctlError as exc:
                logger.warning("the ledger cannot be read at the moment: %s", exc)
                poll = min(2 * poll, MAX_POLL)
            else:
                if has_ended or node is not None:
                    return node
                poll = POLL
            mailbox.wait(poll.total_seconds() * _RANDOM.uniform(0.8, 1.2))
        logger.info("there was no other attempt for %.0f minutes", MAX_STAY.total_seconds() / 60)
        return None

    def _read_ledger(self) -> tuple[bool, NodeId | None]:
        """Return whether the stay has ended, and the node of the next attempt if there is one."""
        settings = self._settings
        run = self._ledger.find_run(settings.run_id)
        if run is None or run.ended is not None:
            logger.info("the run has ended")
            return True, None
        newest = None
        while (later := self._ledger.find_attempt(settings.run_id, self._newest + 1)) is not None:
            newest, self._newest = later, later.number
        if newest is None and self._newest > settings.attempt:
            newest = self._ledger.find_attempt(settings.run_id, self._newest)
        if newest is None or not newest.was_launched:
            return False, None
        node = newest.node_of(settings.instance_id)
        if node is None:
            logger.info("attempt %d is on other instances", newest.number)
            return True, None
        return False, node.node_id

    def _record_notice(self, mailbox: Mailbox) -> None:
        """Store a notice in the ledger: a repair must not count on this machine."""
        noticed_at = mailbox.noticed_at or datetime.now(timezone.utc)
        try:
            self._ledger.record_notice(self._settings.node, now=noticed_at)
        except RunctlError as exc:
            logger.warning("the notice could not be recorded: %s", exc)
