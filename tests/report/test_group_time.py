"""The machine time of a group: its runs, and the waits of its instances for further runs."""

from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.group import WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.policy.warm import MARGIN, waited
from runctl.report.descriptions import group_time_text
from runctl.report.group_time import GroupTime, group_time

NOW = datetime(2026, 11, 30, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


def instance(market: str = "spot", **fields: object) -> WarmInstance:
    return WarmInstance(
        group_id="g",
        instance_id="i-1",
        node=NodeId("g-0001", 1, 0),
        pool=f"m5.large/z/{market}" if market else "",
        keep_seconds=120,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, timedelta(0)),
        ({"waited": MINUTE}, MINUTE),
        ({"waited": MINUTE, "since": NOW - MINUTE, "stage": WarmStage.WAITING}, 2 * MINUTE),
        ({"since": NOW - 9 * MINUTE, "left_at": NOW - 8 * MINUTE}, MINUTE),
        # It has disappeared: nobody has recorded its end.
        ({"since": NOW - timedelta(days=1)}, 2 * MINUTE + MARGIN),
        ({"since": NOW + MINUTE}, timedelta(0)),  # another machine's clock
    ],
)
def test_a_wait_is_counted_until_its_end(fields: dict[str, object], expected: timedelta) -> None:
    assert waited(instance(**fields), now=NOW) == expected


def test_waits_are_added_by_market_and_are_no_time_of_the_runs() -> None:
    warm = [
        instance(waited=MINUTE),
        instance(waited=2 * MINUTE),
        instance("on-demand", waited=MINUTE),
        instance("on-demand"),
        instance("", since=None),  # offered, and never kept
    ]
    time = group_time([{"spot": MINUTE}, {"spot": MINUTE, "on-demand": MINUTE}], warm, now=NOW)
    assert time.as_document() == {
        "machine_seconds": {"spot": 120, "on-demand": 60},
        "waiting_seconds": {"spot": 180, "on-demand": 60},
    }
    assert group_time_text(time) == (
        "2m 00s spot, 1m 00s on-demand, and 3m 00s spot, 1m 00s on-demand waiting for further runs"
    )


def test_a_group_without_waits_says_nothing_of_them() -> None:
    assert group_time_text(GroupTime(runs={"spot": MINUTE}, waiting={})) == "1m 00s spot"
    assert group_time([], [instance()], now=NOW) == GroupTime(runs={}, waiting={})
