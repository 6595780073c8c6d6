"""The mailbox: news for the attempt, exchanged between the agent's threads."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum


class StopCause(Enum):
    """Why an attempt must end before its trainer does. The higher number takes precedence."""

    PEER = 0  # another node of the gang leaves, is lost, hangs or has failed
    MAINTENANCE = 1  # EC2 has scheduled the end of the instance
    NOTICE = 2  # EC2 takes the instance
    PRUNED = 3  # the trial does worse than others of its sweep
    SHUTDOWN = 4  # the instance is shutting down
    STOP = 5  # the user stops the run, or the run has ended in the ledger
    FENCED = 6  # a later attempt owns the run: end without a save or a report


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """A request to stop. `deadline` is when the instance will be gone, if that is known.

    `detected`, by the wall clock, and `heard`, in monotonic seconds, are the same instant. EC2
    gives the deadline by the wall clock. The time that is left is counted from `heard`, so that
    setting the clock within the notice changes nothing. `lost_ranks` are the nodes of a gang that
    are to blame. `kill_at`, in monotonic seconds, is when to stop waiting for the program,
    whose ranks wait for one that will never answer.
    """

    cause: StopCause
    reason: str
    detected: datetime
    deadline: datetime | None = None
    heard: float = field(default_factory=time.monotonic)
    lost_ranks: tuple[int, ...] = ()
    kill_at: float | None = None

    def time_left(self) -> timedelta | None:
        """Return the time until the deadline, None without a deadline."""
        at = self.deadline_at
        return None if at is None else timedelta(seconds=at - time.monotonic())

    @property
    def deadline_at(self) -> float | None:
        """The deadline in monotonic seconds, None without a deadline."""
        if self.deadline is None:
            return None
        return self.heard + (self.deadline - self.detected).total_seconds()

    @property
    def is_overdue(self) -> bool:
        """Whether it is time to stop waiting for the program."""
        return self.kill_at is not None and time.monotonic() >= self.kill_at


class Mailbox:
    """Holds the stop request that takes precedence, and wakes threads that wait for news."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ending: StopRequest | None = None
        self._noticed_at: datetime | None = None
        self._checkpoint_asked = False
        self._woken = False
        self._announced = ""
        self._listeners: tuple[Callable[[], None], ...] = ()

    @property
    def announced(self) -> str:
        """The maintenance that EC2 has scheduled for the instance, in words."""
        return self._announced

    def announce(self, maintenance: str) -> None:
        """Set the maintenance that EC2 has scheduled; an empty text if there is none any more."""
        self._announced = maintenance

    @property
    def ending(self) -> StopRequest | None:
        """The stop request, or None."""
        with self._changed:
            return self._ending

    @property
    def is_fenced(self) -> bool:
        """Whether a later attempt owns the run."""
        ending = self.ending
        return ending is not None and ending.cause is StopCause.FENCED

    @property
    def noticed_at(self) -> datetime | None:
        """When it became known that EC2 takes the instance, whatever stop was requested since."""
        with self._changed:
            return self._noticed_at

    def end(self, ending: StopRequest) -> bool:
        """Request a stop; return whether it takes precedence over the request so far, if any.

        The earliest deadline applies in any case: EC2 may still take a machine that its user has
        stopped. So do the lost nodes of both.
        """
        with self._changed:
            if ending.cause is StopCause.NOTICE and self._noticed_at is None:
                self._noticed_at = ending.detected
            held = self._ending
            wins = held is None or held.cause.value < ending.cause.value
            winner = ending if wins or held is None else held
            self._ending = _merge(winner, [ending] if held is None else [held, ending])
            self._changed.notify_all()
            return wins

    def ask_for_checkpoint(self) -> None:
        """Request a checkpoint now, without a stop."""
        with self._changed:
            self._checkpoint_asked = self._woken = True
            self._changed.notify_all()

    def take_checkpoint_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        with self._changed:
            asked, self._checkpoint_asked = self._checkpoint_asked, False
            return asked

    def wake(self) -> None:
        """Wake waiting threads: something else has changed, such as the trainer's exit."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()
        for call in self._listeners:
            call()

    def on_wake(self, call: Callable[[], None]) -> None:
        """Have `call` called at each wake, too, for threads that wait for something else."""
        self._listeners = (*self._listeners, call)

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for news since the last wait; a stop request is always news."""
        with self._changed:
            if self._ending is None and not self._woken:
                self._changed.wait(seconds)
            self._woken = False


def _merge(winner: StopRequest, requests: Sequence[StopRequest]) -> StopRequest:
    """Return the winning request with what applies of all of them."""
    earliest = min(
        (at for request in requests if (at := request.deadline_at) is not None), default=None
    )
    if earliest is not None:
        after = timedelta(seconds=earliest - winner.heard)
        winner = replace(winner, deadline=winner.detected + after)
    return replace(
        winner,
        lost_ranks=tuple(sorted({rank for request in requests for rank in request.lost_ranks})),
        kill_at=min(
            (request.kill_at for request in requests if request.kill_at is not None), default=None
        ),
    )
