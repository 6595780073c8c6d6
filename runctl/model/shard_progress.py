"""How many shards of a run are done."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ShardProgress:
    """The shards of a run: all, those that are done, and those that failed for good.

    `found` were done or failed when the attempt began. `per_second` is the rate at which the
    attempt ends shards, None until it is known.
    """

    total: int
    done: int = 0
    failed: int = 0
    found: int = 0
    per_second: float | None = None

    @property
    def ended(self) -> int:
        """The number of shards that need no more work."""
        return self.done + self.failed

    @property
    def left(self) -> timedelta | None:
        """The time that the rest will take at the present rate."""
        if not self.per_second:
            return None
        return timedelta(seconds=(self.total - self.ended) / self.per_second)

    @property
    def has_advanced(self) -> bool:
        """Whether the attempt has ended any shard."""
        return self.ended > self.found

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "total": self.total,
            "done": self.done,
            "failed": self.failed,
            "found": self.found,
            "per_second": self.per_second,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ShardProgress | None":
        """Read the JSON form; None if another version wrote something else."""
        counts = [document.get(name, 0) for name in ("total", "done", "failed", "found")]
        if not all(type(count) is int and count >= 0 for count in counts) or not counts[0]:
            return None
        total, done, failed, found = counts
        rate = document.get("per_second")
        return cls(
            total=total,
            done=done,
            failed=failed,
            found=found,
            per_second=float(rate) if isinstance(rate, int | float) and rate > 0 else None,
        )
