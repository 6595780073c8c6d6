"""The checkpoint schedule: when the trainer should save next, and whether saves are overdue."""

from datetime import timedelta

from runctl.policy.interval import Interval, Uptime, choose_interval, is_overdue


class CheckpointSchedule:
    """Decides when to save from the saves and the uptime so far. Instants are monotonic seconds.

    It has no I/O and no clock. `fixed` is the interval that the request sets, None to choose one.
    `seen` is the run's uptime in the attempts before this one. Two threads use it without a lock
    between them: one notes commits, the other asks for saves, and may miss the latest commit once.
    """

    def __init__(self, *, fixed: timedelta | None, seen: Uptime, began: float) -> None:
        self._fixed = fixed
        self._seen = seen
        self._began = began
        self._asked = self._committed = began
        self._longest_gap = timedelta(0)
        self._cost: timedelta | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether the request sets the interval."""
        return self._fixed is not None

    def interval(self, now: float) -> Interval:
        """Return the time that should pass between two saves, and why."""
        if self._fixed is not None:
            return Interval(every=self._fixed, reason="as the request says")
        return choose_interval(
            save_cost=self._cost,
            trained=self._seen.trained + timedelta(seconds=now - self._began),
            interruptions=self._seen.interruptions,
        )

    def note_commit(self, now: float, *, cost: timedelta | None) -> None:
        """Note that a checkpoint was committed, and how long the helper says the save took."""
        self._longest_gap = max(self._longest_gap, timedelta(seconds=now - self._committed))
        self._committed = now
        self._cost = cost or self._cost

    def note_asked(self, now: float) -> None:
        """Note that the trainer was asked to save."""
        self._asked = now

    def is_due(self, now: float) -> bool:
        """Whether the trainer should be asked to save now."""
        since = timedelta(seconds=now - max(self._asked, self._committed))
        return since >= self.interval(now).every

    def overdue(self, now: float) -> str:
        """Return a warning if checkpoints have stopped arriving, or an empty text.

        A trainer that saves at its own, longer intervals is measured by those.
        """
        every = max(self.interval(now).every, self._longest_gap)
        since = timedelta(seconds=now - self._committed)
        if not is_overdue(since_commit=since, every=every):
            return ""
        minutes = since.total_seconds() / 60
        return (
            f"no checkpoint was committed for {minutes:.0f} min, more than two intervals: an "
            "interruption loses all work since then; does the trainer save to "
            "RUNCTL_CHECKPOINT_DIR?"
        )
