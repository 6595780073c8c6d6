"""When a server that has ended is started again on its instance, and when it is not. Pure."""

from collections.abc import Sequence
from datetime import timedelta

FIRST_DELAY = timedelta(seconds=1)
MAX_DELAY = timedelta(seconds=30)
# The share of a delay that is random, so that replicas do not start at the same moment.
JITTER = 0.5
MAX_RESTARTS = 4
# Of a server that was never ready, another start is unlikely to help.
MAX_EARLY_RESTARTS = 2
WINDOW = timedelta(minutes=10)


def recent_ends(ends: Sequence[float], *, now: float) -> int:
    """Return how many of `ends`, in seconds of any clock, are within the window before `now`."""
    return sum(now - end < WINDOW.total_seconds() for end in ends)


def restart_delay(
    ends: Sequence[float], *, now: float, chance: float, was_ready: bool
) -> timedelta | None:
    """Return how long to wait before the next start, None if another instance has to try.

    `ends` are the ends of the server on this instance so far, the last one included, and `chance`
    is a random number from 0 to 1. The delay doubles with each end within the window. `was_ready`:
    the server was ready on this instance at some time.
    """
    recent = recent_ends(ends, now=now)
    if recent > (MAX_RESTARTS if was_ready else MAX_EARLY_RESTARTS):
        return None
    delay: timedelta = min(FIRST_DELAY * 2 ** max(0, recent - 1), MAX_DELAY)
    return delay * (1 - JITTER * chance)
