"""The tally of a job's shards: how many are done or failed, and how fast they end."""

import threading
import time
from collections import deque
from collections.abc import Callable

from runctl.model.shard_progress import ShardProgress

# The rate is that of the newest ends.
RATE_ENDS = 500
RATE_SECONDS = 300.0


class Tally:
    """Counts shards, from any thread."""

    def __init__(
        self,
        total: int,
        *,
        done: int,
        failed: int,
        tolerated: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._total = total
        self._done = done
        self._failed = failed
        self._found = done + failed
        self._tolerated = tolerated
        self._ends: deque[float] = deque([clock()], maxlen=RATE_ENDS)

    def add_done(self) -> None:
        """Count a shard that is done."""
        with self._lock:
            self._done += 1
            self._ends.append(self._clock())

    def add_failure(self) -> bool:
        """Count a shard that failed for good; return whether more have than may."""
        with self._lock:
            self._failed += 1
            self._ends.append(self._clock())
            return self._failed > self._tolerated

    @property
    def has_too_many_failures(self) -> bool:
        """Whether more shards have failed than may."""
        return self._failed > self._tolerated

    @property
    def tolerated(self) -> int:
        """The number of shards that may fail."""
        return self._tolerated

    def progress(self) -> ShardProgress:
        """Return the counts as they are now."""
        with self._lock:
            return ShardProgress(
                total=self._total,
                done=self._done,
                failed=self._failed,
                found=self._found,
                per_second=self._rate(),
            )

    def _rate(self) -> float | None:
        now = self._clock()
        while len(self._ends) > 2 and now - self._ends[0] > RATE_SECONDS:
            self._ends.popleft()
        count = len(self._ends) - 1
        took = now - self._ends[0]
        return float(f"{count / took:.4g}") if count and took > 0 else None
