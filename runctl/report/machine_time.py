"""The machine time of attempts: how long each of their machines was used, by market."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from runctl.model.node import NodeStage
from runctl.model.run import Attempt

MachineTime = Mapping[str, timedelta]


def machine_times(attempts: Sequence[Attempt], *, now: datetime) -> list[MachineTime]:
    """Return the machine time of each attempt, given in the order of their numbers.

    Machines that a gang keeps run on between two attempts: that time is part of the later one.
    """
    counted: dict[str, datetime] = {}
    times: list[MachineTime] = []
    for attempt in attempts:
        time: dict[str, timedelta] = {}
        for instance_id, pool, begun, ended in _uses(attempt, now=now):
            is_kept = any(node.instance_id == instance_id for node in attempt.kept)
            begin = counted.get(instance_id) if is_kept else None
            begin = begin or begun
            if begin is None:
                continue
            market = pool.rpartition("/")[2]
            time[market] = time.get(market, timedelta(0)) + max(ended - begin, timedelta(0))
            counted[instance_id] = max(begin, ended)
        times.append(time)
    return times


def total(times: Sequence[MachineTime]) -> dict[str, timedelta]:
    """Return the sum of machine times."""
    sums: dict[str, timedelta] = {}
    for time in times:
        for market, duration in time.items():
            sums[market] = sums.get(market, timedelta(0)) + duration
    return sums


def _uses(
    attempt: Attempt, *, now: datetime
) -> Iterator[tuple[str, str, datetime | None, datetime]]:
    """Yield instance, pool, launch and end of each machine; one that is lost early ends early."""
    end = attempt.ended_at or now
    if len(attempt.nodes) <= 1 and not attempt.kept:
        if attempt.launched_at is not None:
            yield "", attempt.pool, attempt.launched_at, end
        return
    known = {node.instance_id for node in attempt.nodes}
    for node in attempt.nodes:
        if node.instance_id:
            is_gone = node.stage is NodeStage.GONE and node.heartbeat_at is not None
            ended = min(end, node.heartbeat_at or end) if is_gone else end
            yield node.instance_id, node.pool, attempt.launched_at, ended
    for kept in attempt.kept:
        if kept.instance_id not in known:
            yield kept.instance_id, kept.pool, attempt.launched_at, end
