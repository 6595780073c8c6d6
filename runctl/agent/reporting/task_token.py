"""The task token of the attempt: its arrival, and the reason if it is refused."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RunctlError
from runctl.model.run import Attempt, Run

TOKEN_POLL = timedelta(milliseconds=200)
RUN_POLL = timedelta(seconds=1)

logger = logging.getLogger(__name__)


class TaskToken:
    """The Step Functions task token that the ledger has for this attempt.

    It is never logged and lives in memory only. When the ledger says that the attempt is to end,
    the mailbox gets a StopRequest.

    No lock is needed: the heartbeat's thread and the one that reports the outcome may both reread
    the ledger at the same time, but each attribute is replaced as a whole, with what the ledger
    had at some moment.
    """

    def __init__(
        self,
        ledger: AgentLedger,
        *,
        run_id: str,
        attempt: int,
        instance_id: str,
        mailbox: Mailbox,
        is_gang: bool = False,
    ) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._attempt = attempt
        self._instance_id = instance_id
        self._mailbox = mailbox
        # The machines of a gang go on with the next attempt when one has ended without them.
        self._cause_of_end = StopCause.PEER if is_gang else StopCause.STOP
        self._value = ""
        self._refused: str | None = None
        self._is_over = False
        self._has_arrived = threading.Event()

    @property
    def value(self) -> str:
        """The token, or an empty text while there is none."""
        return self._value

    @property
    def is_refused(self) -> bool:
        """Whether Step Functions has refused the token, and the ledger had no newer one so far."""
        return self._value == self._refused

    @property
    def is_over(self) -> bool:
        """Whether, according to the ledger, nothing waits for this attempt's report any more."""
        return self._is_over

    def has_arrived(self) -> bool:
        """Whether the attempt was given its token: from then on it may train."""
        return self._has_arrived.is_set()

    def wait(self, *, stop: threading.Event, on_newest: Callable[[Run], None]) -> None:
        """Poll the ledger until it has the token or `stop` is set.

        Meanwhile `on_newest` is called with the run, once a second, if that has a checkpoint.
        """
        run_read_at = float("-inf")
        while not stop.is_set():
            try:
                if time.monotonic() - run_read_at >= RUN_POLL.total_seconds():
                    run_read_at = time.monotonic()
                    self._read_run(on_newest)
                attempt = self._ledger.find_attempt(self._run_id, self._attempt)
                token = self._read_token(attempt)
            except RunctlError as exc:
                logger.warning("the ledger cannot be read at the moment: %s", exc)
                stop.wait(RUN_POLL.total_seconds())
                continue
            if attempt is not None and attempt.ended is not None:
                self._request_stop(self._cause_of_end, "the attempt has ended in the ledger")
            elif attempt is not None and attempt.instance_ids and not self._is_ours(attempt):
                # EC2 launched twice for one attempt, whose tags both machines have.
                self._request_stop(StopCause.FENCED, "the attempt is on another instance")
            elif token:
                self._value = token
                self._has_arrived.set()
                self._mailbox.wake()
                return
            stop.wait(TOKEN_POLL.total_seconds())

    def refuse(self, value: str) -> None:
        """Note that Step Functions has refused `value`, and find out from the ledger why."""
        self._refused = value
        self.reread()

    def accept(self) -> None:
        """Note that Step Functions has accepted the token."""
        self._refused = None

    def reread(self) -> None:
        """Reread run and attempt from the ledger, and act on what has changed."""
        try:
            run = self._ledger.find_run(self._run_id)
            attempt = self._ledger.find_attempt(self._run_id, self._attempt)
            is_fenced = run is not None and run.fence > self._attempt
            # A session of an attempt that has lost the fence may have been replaced.
            token = None if is_fenced else self._read_token(attempt)
        except RunctlError as exc:
            logger.warning("the ledger cannot be read at the moment: %s", exc)
            return
        if run is not None:
            has_ended = attempt is not None and attempt.ended is not None
            self._is_over = has_ended or run.ended is not None or run.fence > self._attempt
            self._act_on(run, token)

    def find_newer(self) -> bool:
        """Reread the ledger after a refused report; return whether it has a newer token."""
        before = self._value
        self.reread()
        return self._value != before

    def _is_ours(self, attempt: Attempt) -> bool:
        return self._instance_id in attempt.instance_ids

    def _read_token(self, attempt: Attempt | None) -> str | None:
        """Read the token if the attempt has one: a poll without it costs no second read."""
        if attempt is None or not attempt.has_token:
            return None
        return self._ledger.find_token(self._run_id, self._attempt)

    def _read_run(self, on_newest: Callable[[Run], None]) -> None:
        run = self._ledger.find_run(self._run_id)
        if run is None:
            return
        self._act_on(run, None)
        if run.newest:
            on_newest(run)

    def _act_on(self, run: Run, token: str | None) -> None:
        if run.fence > self._attempt:
            self._request_stop(StopCause.FENCED, f"attempt {run.fence} has taken over")
            return
        if token and token != self._value:
            # For an ended run, too: a redrive that overtook the stop's event waits for our report.
            logger.info("the attempt has a newer task token")
            self._value = token
        if run.ended is not None:
            self._request_stop(StopCause.STOP, f"the run has ended: {run.ended.value}")

    def _request_stop(self, cause: StopCause, reason: str) -> None:
        request = StopRequest(cause=cause, reason=reason, detected=datetime.now(timezone.utc))
        if self._mailbox.end(request):
            logger.info("%s", reason)
