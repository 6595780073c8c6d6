"""The interval between saves, and whether a last save fits into the notice."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt

# Before any observation: one interruption per 12 h, weighted as one observation. So the first
# interruptions of a run change the estimate quickly, and their absence changes it slowly.
PRIOR_UPTIME = timedelta(hours=12)
MIN_INTERVAL = timedelta(minutes=1)
MAX_INTERVAL = timedelta(hours=1)
# The cost of a save is unknown before the first one.
UNTIL_THE_FIRST = timedelta(minutes=10)

# EC2's notice, and what the agent needs of it: noticing, ending the trainer, commit and report.
NOTICE = timedelta(minutes=2)
NOTICE_RESERVE = timedelta(seconds=10)

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Uptime:
    """The time that a run's machines have trained, and the number that were reclaimed."""

    trained: timedelta = timedelta(0)
    interruptions: int = 0


def uptime_of(attempts: Iterable[Attempt]) -> Uptime:
    """Add up the attempts that have trained and ended; silent ones count as interrupted."""
    trained, interruptions = timedelta(0), 0
    for attempt in attempts:
        if attempt.running_at is None or attempt.ended_at is None or attempt.ended is None:
            continue
        trained += max(attempt.ended_at - attempt.running_at, timedelta(0))
        interruptions += attempt.ended.kind in {OutcomeKind.INTERRUPTED, OutcomeKind.LOST}
    return Uptime(trained=trained, interruptions=interruptions)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The time from the start of one save to the next, and the reason, in words for people.

    `cost` and `uptime` are δ and M, if it follows from them.
    """

    every: timedelta
    reason: str
    cost: timedelta | None = None
    uptime: timedelta | None = None


def mean_uptime(*, trained: timedelta, interruptions: int) -> timedelta:
    """Estimate the mean time between interruptions from what this run has seen.

    The posterior mean of exponential uptimes with a prior worth one interruption in 12 h.
    """
    return (trained + PRIOR_UPTIME) / (interruptions + 1)


def choose_interval(
    *, save_cost: timedelta | None, trained: timedelta, interruptions: int
) -> Interval:
    """Return the interval that loses least: √(2δM), between 1 min and 1 h.

    δ is `save_cost`, the time for which a save delays training, None before the first one; M is the
    mean time between interruptions. Young, "A first order approximation to the optimum checkpoint
    interval" (1974). It holds while δ is small compared with M; if δ is half of M or more, Daly
    (2006) saves every M.
    """
    if save_cost is None:
        return Interval(every=UNTIL_THE_FIRST, reason="until a first save shows what a save costs")
    mean = mean_uptime(trained=trained, interruptions=interruptions)
    best = timedelta(seconds=math.sqrt(2 * save_cost.total_seconds() * mean.total_seconds()))
    every = max(MIN_INTERVAL, min(best, mean, MAX_INTERVAL))
    counted = "no interruption" if interruptions == 0 else f"{interruptions} interruption(s)"
    reason = (
        f"√(2 × {_words(save_cost)} a save × {_words(mean)} between interruptions) = "
        f"{_words(best)}, after {counted} in {_words(trained)} of training"
    )
    if every != best:
        reason += f"; limited to {_words(every)}"
    return Interval(every=every, reason=reason, cost=save_cost, uptime=mean)


@dataclass(frozen=True, kw_only=True)
class NoticeBudget:
    """The time that a last save needs, compared with the time that a notice leaves."""

    needed: timedelta
    available: timedelta
    size_bytes: int
    bytes_per_second: float

    @property
    def fits(self) -> bool:
        """Whether a save that begins with the notice is committed before its deadline."""
        return self.needed <= self.available

    @property
    def warning(self) -> str:
        """A warning for people, or an empty string."""
        if self.fits:
            return ""
        return (
            f"a last save does not fit into the notice: {self.size_bytes / _MEBIBYTE:,.0f} MiB at "
            f"{self.bytes_per_second / _MEBIBYTE:,.0f} MiB/s need {_words(self.needed)}, EC2 "
            f"gives {_words(self.available)}; what is new since the previous checkpoint will be "
            "lost: save less or more often, or use a type with a faster network"
        )


def notice_budget(
    *,
    size_bytes: int,
    bytes_per_second: float,
    save_cost: timedelta = timedelta(0),
    notice: timedelta = NOTICE,
) -> NoticeBudget:
    """Return whether writing and uploading a whole checkpoint fits into a notice.

    This assumes the worst case: every byte of it is new. `bytes_per_second` is the measured upload
    speed.
    """
    upload = timedelta(seconds=size_bytes / bytes_per_second)
    return NoticeBudget(
        needed=save_cost + upload,
        available=notice - NOTICE_RESERVE,
        size_bytes=size_bytes,
        bytes_per_second=bytes_per_second,
    )


def is_overdue(*, since_commit: timedelta, every: timedelta) -> bool:
    """Return whether no checkpoint was committed for two intervals."""
    return since_commit > 2 * every


def _words(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
