"""The offer of this instance to the next run of its group, and the wait for that run."""

import logging
import os
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.agent.instance.settings import Settings
from runctl.agent.ports import WarmItems
from runctl.agent.signals.mailbox import Mailbox
from runctl.model.errors import RunctlError
from runctl.model.group import WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.policy.warm import MARGIN

# The next run of a group mostly comes within seconds.
FIRST_POLL = timedelta(milliseconds=250)
SOON = timedelta(seconds=15)
POLL = timedelta(seconds=1)
MAX_POLL = timedelta(seconds=10)
# From the report to the end of the run, with functions that are retried.
UNTIL_KEPT = timedelta(seconds=60)
# Without an answer for this long the machine ends, and a claim of it would be found lost.
MAX_SILENCE = timedelta(seconds=60)

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


class WarmOffer:
    """Offers the instance of an attempt that has ended to another run of the group.

    The offer is made before the attempt is reported, so that the next run finds it; FinishRun
    lets it wait, and LaunchInstances claims it.
    """

    def __init__(self, items: WarmItems, settings: Settings, group_id: str) -> None:
        self._items = items
        self._settings = settings
        self._group_id = group_id

    def make(self) -> bool:
        """Offer the instance; return whether the ledger has the offer."""
        settings = self._settings
        disk = os.statvfs(settings.paths.state)
        offer = WarmInstance(
            group_id=self._group_id,
            instance_id=settings.instance_id,
            node=settings.node,
            disk_bytes=disk.f_blocks * disk.f_frsize,
        )
        try:
            held = self._items.offer_warm(offer)
        except RunctlError as exc:
            logger.warning("this instance cannot be offered to the next run: %s", exc)
            return False
        # An agent that is started again may find that it was claimed meanwhile.
        return held.stage is not WarmStage.LEFT

    def wait(self, mailbox: Mailbox, *, is_noticed: Callable[[], bool]) -> NodeId | None:
        """Wait for the next attempt; return its node, or None if this instance is to end.

        It ends after a stop request, a notice, the end of the group, or when nobody has claimed it
        in time. Whatever the reason, a claim that was faster counts.
        """
        began = heard = time.monotonic()
        until, poll, is_kept = began + UNTIL_KEPT.total_seconds(), FIRST_POLL, False
        while True:
            now = time.monotonic()
            if mailbox.ending is not None or is_noticed() or now > until:
                return self._withdraw()
            try:
                held = self._find()
            except RunctlError as exc:
                if now - heard > MAX_SILENCE.total_seconds():
                    return self._withdraw()
                logger.warning("the ledger cannot be read at the moment: %s", exc)
                poll = min(2 * poll, MAX_POLL)
            else:
                heard = now
                if held is None or held.stage is WarmStage.LEFT:
                    return None
                if held.node != self._settings.node:
                    return held.node
                if held.stage is WarmStage.WAITING and not is_kept:
                    # Counted from the first sight of it, by this clock: nothing claims it later.
                    keep = timedelta(seconds=held.keep_seconds) + MARGIN
                    until, is_kept = now + keep.total_seconds(), True
                poll = FIRST_POLL if now - began < SOON.total_seconds() else POLL
            mailbox.wait(poll.total_seconds() * _RANDOM.uniform(0.8, 1.2))

    def _find(self) -> WarmInstance | None:
        return self._items.find_warm(self._group_id, self._settings.instance_id)

    def _withdraw(self) -> NodeId | None:
        """Withdraw the offer; return the next node if it was claimed meanwhile."""
        until = time.monotonic() + MAX_SILENCE.total_seconds()
        while True:
            try:
                held = self._items.withdraw_offer(
                    self._group_id,
                    self._settings.instance_id,
                    node=self._settings.node,
                    now=datetime.now(timezone.utc),
                )
            except RunctlError as exc:
                logger.warning("the offer cannot be withdrawn at the moment: %s", exc)
                if time.monotonic() > until:
                    return None
                time.sleep(POLL.total_seconds())
                continue
            if held is None or held.node == self._settings.node:
                return None
            return held.node
