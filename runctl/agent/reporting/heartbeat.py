"""The heartbeat: waiting for the task token, beating with it, and noticing when it is refused."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.aws.errors import code_of, translated
from runctl.aws.workflow import SPENT_TOKEN
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import FencedError, RunctlError
from runctl.model.run import Attempt, Run

BEAT = timedelta(seconds=20)
TELL = timedelta(seconds=5)
BEAT_AFTER_FAILURE = timedelta(seconds=3)
TOKEN_POLL = timedelta(milliseconds=200)
RUN_POLL = timedelta(seconds=1)
# A token that was refused, with nothing else known: the ledger will soon say what it means.
REREAD = timedelta(seconds=3)

logger = logging.getLogger(__name__)


class Heartbeat:
    """Beats from the first instruction on. The token is never logged and lives in memory only."""

    def __init__(
        self,
        ledger: AgentLedger,
        workflow: Any,
        *,
        run_id: str,
        attempt: int,
        instance_id: str,
        lease: Path,
        progress: Progress,
        mailbox: Mailbox,
    ) -> None:
        self._ledger = ledger
        self._workflow = workflow
        self._run_id = run_id
        self._attempt = attempt
        self._instance_id = instance_id
        self._lease = lease
        self._progress = progress
        self._mailbox = mailbox
        self._token = ""
        self._refused = ""
        self._told_notice = False
        self._over = False
        self._has_token = threading.Event()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._on_newest: Callable[[Run], None] = lambda _run: None
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        progress.on_change(self._wake.set)

    @property
    def token(self) -> str:
        """The task token, or an empty text while there is none."""
        return self._token

    def start(self, on_newest: Callable[[Run], None]) -> None:
        """Begin; `on_newest` is called with the run while we wait for the token."""
        self._on_newest = on_newest
        self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=30)

    def has_token(self) -> bool:
        """Whether the attempt was given its token: from then on it may train."""
        return self._has_token.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the ledger says that nobody waits for this attempt's report any more."""
        return self._over

    def tell_now(self) -> None:
        """Store the progress at once, in the caller's thread."""
        self._record()

    def _live(self) -> None:
        while not self._stop.is_set():
            try:
                self._live_on()
            except Exception:  # whatever it is, silence would be taken for a lost instance
                logger.exception("the heartbeat met something unforeseen")
                self._stop.wait(BEAT_AFTER_FAILURE.total_seconds())

    def _live_on(self) -> None:
        if not self.has_token():
            self._await_token()
        while not self._stop.is_set():
            self._wake.clear()
            accepted = self._beat()
            self._record()
            wait = BEAT if accepted else (REREAD if self._refused else BEAT_AFTER_FAILURE)
            self._wait(wait)

    def _wait(self, wait: timedelta) -> None:
        """Wait for the next beat; meanwhile a change is told at once, and the step soon."""
        until = time.monotonic() + wait.total_seconds()
        while not self._stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            changed = self._wake.wait(min(left, TELL.total_seconds()))
            if (changed or self._progress.is_news) and not self._stop.is_set():
                self._wake.clear()
                self._record()

    def _await_token(self) -> None:
        looked = float("-inf")
        while not self._stop.is_set():
            try:
                if time.monotonic() - looked >= RUN_POLL.total_seconds():
                    looked = time.monotonic()
                    self._look_at_run()
                attempt = self._ledger.find_attempt(self._run_id, self._attempt)
            except (RunctlError, ClientError, BotoCoreError) as exc:
                logger.warning("the ledger cannot be read for now: %s", exc)
                self._stop.wait(RUN_POLL.total_seconds())
                continue
            if attempt is not None and attempt.ended is not None:
                self._end(StopCause.STOP, "the attempt has ended in the ledger")
            elif attempt is not None and attempt.instance_ids and not self._is_ours(attempt):
                # EC2 launched twice for one attempt, whose tags both machines have.
                self._end(StopCause.FENCED, "the attempt is on another instance")
            elif attempt is not None and attempt.token:
                self._token = attempt.token
                self._has_token.set()
                self._mailbox.wake()
                return
            self._stop.wait(TOKEN_POLL.total_seconds())

    def _is_ours(self, attempt: Attempt) -> bool:
        return self._instance_id in attempt.instance_ids

    def _look_at_run(self) -> None:
        run = self._ledger.find_run(self._run_id)
        if run is None:
            return
        self._judge(run, None)
        if run.newest:
            self._on_newest(run)

    def _beat(self) -> bool:
        """Send one heartbeat; whether it was accepted."""
        if self._refused == self._token:
            self._reread()
            if self._refused == self._token:
                return False
        try:
            with translated():
                self._workflow.send_task_heartbeat(taskToken=self._token)
        except ClientError as exc:
            if code_of(exc) not in SPENT_TOKEN:
                logger.warning("the heartbeat failed: %s", code_of(exc))
                return False
            # Stopped, retried, redriven or expired: the ledger tells which.
            logger.warning("the task token is refused (%s)", code_of(exc))
            self._refused = self._token
            self._reread()
            return self._refused != self._token and self._beat()
        except (RunctlError, BotoCoreError) as exc:
            logger.warning("the heartbeat failed: %s", exc)
            return False
        self._refused = ""
        touch(self._lease)
        return True

    def _record(self) -> None:
        try:
            self._tell_notice()
            self._ledger.record_progress(
                self._run_id,
                self._attempt,
                now=datetime.now(timezone.utc),
                **self._progress.as_arguments(),
            )
        except FencedError:
            self._reread()
        except (RunctlError, ClientError, BotoCoreError) as exc:
            logger.warning("the progress could not be stored: %s", exc)

    def _tell_notice(self) -> None:
        """Let the ledger know of a notice whose event may be lost: nobody terminates us then."""
        noticed_at = self._mailbox.noticed_at
        if noticed_at is None or self._told_notice:
            return
        self._ledger.note_notice(self._run_id, self._attempt, now=noticed_at)
        self._told_notice = True

    def _reread(self) -> None:
        """Ask the ledger what a refusal means, and act on it."""
        try:
            run = self._ledger.find_run(self._run_id)
            attempt = self._ledger.find_attempt(self._run_id, self._attempt)
        except (RunctlError, ClientError, BotoCoreError) as exc:
            logger.warning("the ledger cannot be read for now: %s", exc)
            return
        if run is not None:
            ended = attempt is not None and attempt.ended is not None
            self._over = ended or run.ended is not None or run.fence > self._attempt
            self._judge(run, attempt)

    def find_newer_token(self) -> bool:
        """After a refused report: whether the ledger has a newer token for this attempt."""
        before = self._token
        self._reread()
        return self._token != before

    def _judge(self, run: Run, attempt: Attempt | None) -> None:
        if run.fence > self._attempt:
            self._end(StopCause.FENCED, f"attempt {run.fence} has taken over")
            return
        if attempt is not None and attempt.token and attempt.token != self._token:
            # Of an ended run too: a redrive that overtook the stop's event waits for our report.
            logger.info("the attempt has a newer task token")
            self._token = attempt.token
        if run.ended is not None:
            self._end(StopCause.STOP, f"the run has ended: {run.ended.value}")

    def _end(self, cause: StopCause, reason: str) -> None:
        if self._mailbox.end(
            StopRequest(cause=cause, reason=reason, detected=datetime.now(timezone.utc))
        ):
            logger.info("%s", reason)


def touch(lease: Path) -> None:
    """Renew the lease that the dead-man timer looks at."""
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.touch()
