"""SIGTERM to the agent: its service is stopped, most likely by the shutdown of the system."""

import signal
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest

TIME_LEFT = timedelta(seconds=80)


class Termination:
    """Requests a stop of the attempt that runs, and of every later one."""

    def __init__(self) -> None:
        self._mailbox: Mailbox | None = None
        self._request: StopRequest | None = None

    def install(self) -> None:
        """Handle SIGTERM from now on; call it in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)

    def inform(self, mailbox: Mailbox) -> None:
        """Send the request to this mailbox from now on, also one that came before."""
        self._mailbox = mailbox
        if self._request is not None:
            mailbox.end(self._request)

    def _handle(self, _number: int, _frame: Any) -> None:
        now = datetime.now(timezone.utc)
        request = self._request = StopRequest(
            cause=StopCause.SHUTDOWN,
            reason="the instance is shutting down",
            detected=now,
            deadline=now + TIME_LEFT,
        )
        if (mailbox := self._mailbox) is not None:
            # In a thread: the handler may have interrupted a holder of the mailbox's lock.
            threading.Thread(target=mailbox.end, args=(request,), daemon=True).start()
