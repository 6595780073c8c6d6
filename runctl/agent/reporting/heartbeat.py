"""The heartbeat: shows Step Functions that the attempt is alive, and the ledger how far it is."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from runctl.agent.ports import Workflow
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.signals.mailbox import Mailbox
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import FencedError, RunctlError
from runctl.model.node import NodeId
from runctl.model.run import Run

BEAT = timedelta(seconds=20)
STORE = timedelta(seconds=5)
BEAT_AFTER_FAILURE = timedelta(seconds=3)
# After a refusal whose reason is unknown: the ledger will soon have the reason.
REREAD = timedelta(seconds=3)

logger = logging.getLogger(__name__)


class Heartbeat:
    """Waits for the task token, then beats with it and stores the progress in the ledger.

    All of this happens in one thread. `store_progress` may be called from another: the progress and
    the mailbox have locks of their own, and storing a notice twice changes nothing.
    """

    def __init__(
        self,
        ledger: AgentLedger,
        workflow: Workflow,
        token: TaskToken,
        *,
        node: NodeId,
        lease: Path,
        progress: Progress,
        mailbox: Mailbox,
    ) -> None:
        self._ledger = ledger
        self._workflow = workflow
        self._token = token
        self._node = node
        self._lease = lease
        self._progress = progress
        self._mailbox = mailbox
        self._has_stored_notice = False
        self._storing = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._on_newest: Callable[[Run], None] = lambda _run: None
        self._threads = [threading.Thread(target=self._run, name="heartbeat", daemon=True)]
        progress.on_change(self._wake.set)

    def start(self, on_newest: Callable[[Run], None]) -> None:
        """Begin; `on_newest` is called with the run until the token arrives."""
        self._on_newest = on_newest
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def store_progress(self) -> bool:
        """Store the progress in the ledger now, in the caller's thread; return whether it is."""
        try:
            # One after the other: a snapshot must not replace a later one.
            with self._storing:
                self._store_notice()
                self._ledger.record_progress(
                    self._node, self._progress.snapshot(), now=datetime.now(timezone.utc)
                )
        except FencedError:
            self._token.reread()
        except RunctlError as exc:
            logger.warning("the progress could not be stored: %s", exc)
        else:
            return True
        return False

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._run_until_stopped()
            except Exception:  # whatever it is, silence would be taken for a lost instance
                logger.exception("unexpected error in the heartbeat")
                self._stop.wait(BEAT_AFTER_FAILURE.total_seconds())

    def _run_until_stopped(self) -> None:
        if not self._token.has_arrived():
            self._token.wait(stop=self._stop, on_newest=self._on_newest)
        while not self._stop.is_set():
            self._wake.clear()
            accepted = self._beat()
            self.store_progress()
            wait = BEAT if accepted else (REREAD if self._token.is_refused else BEAT_AFTER_FAILURE)
            self._wait(wait)

    def _wait(self, wait: timedelta) -> None:
        """Wait for the next beat; meanwhile store a change at once, and the step soon."""
        until = time.monotonic() + wait.total_seconds()
        while not self._stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            changed = self._wake.wait(min(left, STORE.total_seconds()))
            if (changed or self._progress.is_news) and not self._stop.is_set():
                self._wake.clear()
                self.store_progress()

    def _beat(self) -> bool:
        """Send one heartbeat; return whether it was accepted."""
        if self._token.is_refused:
            self._token.reread()
            if self._token.is_refused:
                return False
        sent = self._token.value
        try:
            is_accepted = self._workflow.beat(sent)
        except RunctlError as exc:
            logger.warning("the heartbeat failed: %s", exc)
            return False
        if not is_accepted:
            # Stopped, retried, redriven or expired: the ledger has the reason.
            logger.warning("the task token is refused")
            self._token.refuse(sent)
            return not self._token.is_refused and self._beat()
        self._token.accept()
        touch(self._lease)
        return True

    def _store_notice(self) -> None:
        """Store a notice in the ledger: if its event is lost, the ledger is the only trace."""
        noticed_at = self._mailbox.noticed_at
        if noticed_at is None or self._has_stored_notice:
            return
        self._ledger.record_notice(self._node, now=noticed_at)
        self._has_stored_notice = True


def touch(lease: Path) -> None:
    """Renew the lease that the dead-man timer looks at."""
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.touch()
