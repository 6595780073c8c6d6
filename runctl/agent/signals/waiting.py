"""Cancellable waiting: every wait ends early if the attempt has to stop."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import TypeVar

from runctl.agent.signals.mailbox import Mailbox
from runctl.model.errors import TransientError

RETRY = timedelta(seconds=2)
CHECK = timedelta(seconds=1)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class EndedEarlyError(Exception):
    """A stop was requested before the trainer was started."""


class CancellableWait:
    """Waits for conditions and jobs. Raises EndedEarlyError if a stop is requested first."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    @property
    def is_ending(self) -> bool:
        """Whether a stop was requested."""
        return self._mailbox.ending is not None

    def start(self, job: Callable[[], Result]) -> "Future[Result]":
        """Run a job in the background. It continues on its own if a stop is requested first."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as exc:  # noqa: BLE001 - it is raised again by result()
                future.set_exception(exc)
            self._mailbox.wake()

        threading.Thread(target=run, name="job", daemon=True).start()
        return future

    def run_in_background(self, job: Callable[[], Result]) -> Result:
        """Run a job in the background and wait for its result."""
        future = self.start(job)
        self.wait_until(future.done)
        return future.result()

    def wait_until(self, is_there: Callable[[], bool]) -> None:
        """Wait until `is_there` returns true; whatever changes its result wakes the mailbox."""
        while not is_there():
            self.pause(CHECK)

    def pause(self, duration: timedelta) -> None:
        """Wait for news, at most for `duration`."""
        self.check()
        self._mailbox.wait(duration.total_seconds())
        self.check()

    def check(self) -> None:
        """Raise EndedEarlyError if a stop was requested."""
        if self._mailbox.ending is not None:
            raise EndedEarlyError

    def retry(self, call: Callable[[], Result]) -> Result:
        """Call until the services answer."""
        while True:
            try:
                return call()
            except TransientError as exc:
                logger.warning("trying again: %s", exc)
                self.pause(RETRY)
