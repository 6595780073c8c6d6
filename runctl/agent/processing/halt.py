"""The halt of a session's threads: because the attempt has to stop, or the run has failed."""

import threading
from collections.abc import Callable

from runctl.agent.signals.mailbox import Mailbox, StopRequest
from runctl.agent.signals.waiting import EndedEarlyError


class Halt:
    """Says whether the threads of a session have to end, and wakes those that wait.

    They wait for the exits of programs as well: `wake` is called at each.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_closed = False

    @property
    def stop(self) -> StopRequest | None:
        """The request to stop the attempt, if there is one."""
        return self._mailbox.ending

    @property
    def error(self) -> BaseException | None:
        """What one of the threads has failed with."""
        return self._error

    @property
    def is_set(self) -> bool:
        """Whether the threads have to end."""
        return self._is_closed or self._mailbox.ending is not None

    def close(self) -> None:
        """End the threads although the attempt goes on: nothing is left to do, or it is useless."""
        self._is_closed = True
        self.wake()

    def fail(self, error: BaseException) -> None:
        """End the threads because one of them has failed; the first failure counts."""
        self._error = self._error or error
        self.close()
        self._mailbox.wake()

    def check(self) -> None:
        """Raise EndedEarlyError if the threads have to end."""
        if self.is_set:
            raise EndedEarlyError

    def wake(self) -> None:
        """Wake all that wait."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait for a halt, or for a change after which `unless` may be true, at most `seconds`."""
        with self._changed:
            if not self.is_set and not unless():
                self._changed.wait(seconds)

    def pause(self, seconds: float) -> None:
        """Wait `seconds`; raises EndedEarlyError as soon as the threads have to end."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_set, seconds)
        self.check()
