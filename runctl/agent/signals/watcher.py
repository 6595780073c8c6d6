"""The interruption watcher: polls EC2's notices, scheduled maintenance and request files."""

import logging
import threading
import time
from datetime import datetime, timedelta, timezone

from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.paths import Paths
from runctl.agent.signals import request_files
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.request_files import Received, Request
from runctl.policy.maintenance import Response, describe, respond

METADATA_INTERVAL = timedelta(seconds=1)
# Maintenance is announced days ahead, or at least minutes.
MAINTENANCE_INTERVAL = timedelta(seconds=10)
REQUEST_INTERVAL = timedelta(milliseconds=200)
# The warning arrives through EventBridge, Lambda and SSM, which take some of its 120 s.
ASSUMED_NOTICE = timedelta(seconds=105)

logger = logging.getLogger(__name__)


class InterruptionWatcher:
    """Reports notices, rebalance recommendations and requests to the mailbox.

    A node of a gang (`is_gang`) is also asked to drain when EC2 takes another one: then the ledger
    says which, and the agent's watch over the gang finds it there.
    """

    def __init__(
        self, metadata: Metadata, paths: Paths, mailbox: Mailbox, *, is_gang: bool = False
    ) -> None:
        self._metadata = metadata
        self._paths = paths
        self._mailbox = mailbox
        self._is_gang = is_gang
        self._stop = threading.Event()
        self._noticed = False
        self._recommended: str | None = None
        self._unreachable = False
        self._leaving = False
        self._asked_for: dict[str, set[str]] = {}
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        asked = asked_for_maintenance = float("-inf")
        while not self._stop.is_set():
            started = time.monotonic()
            pause = REQUEST_INTERVAL
            try:
                if started - asked >= METADATA_INTERVAL.total_seconds():
                    asked = started
                    self.check_metadata()
                if started - asked_for_maintenance >= MAINTENANCE_INTERVAL.total_seconds():
                    asked_for_maintenance = started
                    self.check_maintenance()
            except Exception:  # whatever it is, the next check must still come
                logger.exception("the metadata cannot be checked")
            try:
                self.collect_requests()
            except Exception:
                logger.exception("the requests cannot be collected")
                pause = METADATA_INTERVAL
            self._stop.wait(pause.total_seconds())

    def check_metadata(self) -> None:
        """Ask the metadata service once."""
        try:
            deadline = None if self._noticed else self._metadata.notice()
            recommended = self._metadata.rebalance_recommended_at()
        except MetadataError as exc:
            if not self._unreachable:
                logger.warning("%s; the other detectors still work", exc)
            self._unreachable = True
            return
        self._unreachable = False
        if deadline is not None:
            self._report_notice(deadline, "EC2 takes the instance (notice)")
        if recommended is not None and recommended != self._recommended:
            self._recommended = recommended
            logger.info("EC2 recommends rebalancing: saving a checkpoint")
            self._mailbox.ask_for_checkpoint()

    def check_maintenance(self) -> None:
        """Ask the metadata service for scheduled maintenance, and act on what is near."""
        try:
            events = self._metadata.scheduled_events()
        except MetadataError as exc:
            logger.debug("%s", exc)  # check_metadata logs it already
            return
        self._mailbox.announce(describe(events))
        for event in events:
            asked = self._asked_for.setdefault(event.event_id, set())
            answer = respond(event, asked, now=_now())
            if answer.response is Response.SAVE:
                asked.add(answer.stage)
                logger.info("%s: saving a checkpoint", describe([event]))
                self._mailbox.ask_for_checkpoint()
            elif answer.response is Response.LEAVE and not self._leaving:
                self._leaving = True
                reason = f"EC2 ends the instance for maintenance ({event.code})"
                logger.info("%s, at %s", reason, answer.deadline)
                self._mailbox.end(
                    StopRequest(
                        cause=StopCause.MAINTENANCE,
                        reason=reason,
                        detected=_now(),
                        deadline=answer.deadline,
                    )
                )

    def collect_requests(self) -> None:
        """Collect the request files, and act on them."""
        for received in request_files.collect(self._paths.requests):
            logger.info("asked to %s", received.request.value)
            match received.request:
                case Request.CHECKPOINT:
                    self._mailbox.ask_for_checkpoint()
                case Request.DRAIN:
                    self.check_metadata()  # which knows the deadline, if there is a notice
                    if not self._is_gang:
                        deadline = _deadline_of(received)
                        self._report_notice(deadline, "EC2 takes the instance (warning)")
                case Request.STOP:
                    self._mailbox.end(
                        StopRequest(
                            cause=StopCause.STOP, reason="stopped by the user", detected=_now()
                        )
                    )

    def _report_notice(self, deadline: datetime, reason: str) -> None:
        if self._noticed:
            return
        self._noticed = True
        detected = _now()
        logger.info("%s, at %s", reason, deadline.isoformat())
        self._mailbox.end(
            StopRequest(cause=StopCause.NOTICE, reason=reason, detected=detected, deadline=deadline)
        )
        self._paths.notice.parent.mkdir(parents=True, exist_ok=True)
        self._paths.notice.write_text(deadline.isoformat())


def _deadline_of(received: Received) -> datetime:
    """Return the deadline of a warning, or an estimate if it had passed when it arrived."""
    if received.deadline is not None and received.deadline > received.made:
        return received.deadline
    return received.made + ASSUMED_NOTICE


def _now() -> datetime:
    return datetime.now(timezone.utc)
