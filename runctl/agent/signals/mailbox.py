"""What happened to the attempt while the agent was at work, told between its threads."""

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum


class StopCause(Enum):
    """Why an attempt must end before its trainer does; the higher number wins."""

    MAINTENANCE = 0  # EC2 has scheduled the instance's end: leave it before that
    NOTICE = 1  # EC2 takes the instance
    SHUTDOWN = 2  # somebody shuts the instance down
    STOP = 3  # the user stops the run, or the run has ended in the ledger
    FENCED = 4  # a later attempt owns the run: leave without a trace


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """An end that was asked for; `deadline` is when the instance is gone, if that is known.

    `detected` by the wall clock and `heard`, in monotonic seconds, are the same instant. EC2 tells
    a deadline by the wall clock; how far off it is counts from here, so that a step of that clock
    within the notice moves nothing.
    """

    cause: StopCause
    reason: str
    detected: datetime
    deadline: datetime | None = None
    heard: float = field(default_factory=time.monotonic)

    def time_left(self) -> timedelta | None:
        """Return how long it is until the deadline, None without one."""
        at = self.deadline_at
        return None if at is None else timedelta(seconds=at - time.monotonic())

    @property
    def deadline_at(self) -> float | None:
        """The deadline in monotonic seconds, None without one."""
        if self.deadline is None:
            return None
        return self.heard + (self.deadline - self.detected).total_seconds()


class Mailbox:
    """Holds the ending that wins, and wakes up who waits for one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ending: StopRequest | None = None
        self._noticed_at: datetime | None = None
        self._checkpoint_asked = False
        self._woken = False
        self._announced = ""

    @property
    def announced(self) -> str:
        """The maintenance that EC2 has scheduled for the instance, in words."""
        return self._announced

    def announce(self, maintenance: str) -> None:
        """Note what EC2 has scheduled for the instance; an empty text takes it back."""
        self._announced = maintenance

    @property
    def ending(self) -> StopRequest | None:
        """The ending that was asked for, or None."""
        with self._changed:
            return self._ending

    @property
    def is_fenced(self) -> bool:
        """Whether a later attempt owns the run."""
        ending = self.ending
        return ending is not None and ending.cause is StopCause.FENCED

    @property
    def noticed_at(self) -> datetime | None:
        """When it became known that EC2 takes the instance, whatever else was asked for."""
        with self._changed:
            return self._noticed_at

    def end(self, ending: StopRequest) -> bool:
        """Ask for an end; False when one that weighs as much was asked for already.

        The earliest deadline holds, whoever told of it: a machine that was stopped by its user may
        still be taken.
        """
        with self._changed:
            if ending.cause is StopCause.NOTICE and self._noticed_at is None:
                self._noticed_at = ending.detected
            held = self._ending
            known = [one.deadline_at for one in (held, ending) if one is not None]
            wins = held is None or held.cause.value < ending.cause.value
            winner = ending if wins or held is None else held
            earliest = min((at for at in known if at is not None), default=None)
            if earliest is not None:
                after = timedelta(seconds=earliest - winner.heard)
                winner = replace(winner, deadline=winner.detected + after)
            self._ending = winner
            self._changed.notify_all()
            return wins

    def ask_for_checkpoint(self) -> None:
        """Ask for a checkpoint now, without an end."""
        with self._changed:
            self._checkpoint_asked = self._woken = True
            self._changed.notify_all()

    def take_checkpoint_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        with self._changed:
            asked, self._checkpoint_asked = self._checkpoint_asked, False
            return asked

    def wake(self) -> None:
        """Wake up who waits: something else has changed, such as the trainer's exit."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for news since the last wait, at most so long; an end is always news."""
        with self._changed:
            if self._ending is None and not self._woken:
                self._changed.wait(seconds)
            self._woken = False
