"""The machine time of a group: that of its runs, and the time in which its instances waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runctl.model.group import WarmInstance
from runctl.policy.warm import waited
from runctl.report.machine_time import MachineTime, total


@dataclass(frozen=True, kw_only=True)
class GroupTime:
    """The time of all machines of a group, by market: of its runs, and `waiting` for further ones.

    A machine that waits belongs to no run, so the runs' own machine time does not contain it.
    """

    runs: MachineTime
    waiting: MachineTime

    def as_document(self) -> dict[str, Any]:
        """Return both as JSON, in seconds."""
        return {
            "machine_seconds": _seconds(self.runs),
            "waiting_seconds": _seconds(self.waiting),
        }


def group_time(
    runs: Sequence[MachineTime], warm: Sequence[WarmInstance], *, now: datetime
) -> GroupTime:
    """Return the time of a group whose runs had that machine time, from its warm instances."""
    waits = [{each.pool.rpartition("/")[2]: waited(each, now=now)} for each in warm if each.pool]
    return GroupTime(
        runs=total(runs),
        waiting={market: wait for market, wait in total(waits).items() if wait > timedelta(0)},
    )


def _seconds(times: Mapping[str, timedelta]) -> dict[str, int]:
    return {market: round(time.total_seconds()) for market, time in times.items()}
