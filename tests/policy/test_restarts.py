"""A server is started again with growing delays, and a few times only on one instance."""

import itertools

import pytest

from runctl.policy.restarts import (
    MAX_DELAY,
    MAX_EARLY_RESTARTS,
    MAX_RESTARTS,
    WINDOW,
    restart_delay,
)


def delays(ends, **options):
    return [
        restart_delay(ends[: number + 1], now=end, **{"chance": 0.0, "was_ready": True, **options})
        for number, end in enumerate(ends)
    ]


def test_the_delay_doubles_until_another_instance_has_to_try():
    found = delays([0.0] * (MAX_RESTARTS + 1))
    assert [each.total_seconds() for each in found[:-1]] == [1, 2, 4, 8]
    assert found[-1] is None


def test_a_server_that_was_never_ready_gets_fewer_starts():
    found = delays([0.0] * (MAX_EARLY_RESTARTS + 1), was_ready=False)
    assert [each is None for each in found] == [False] * MAX_EARLY_RESTARTS + [True]


def test_ends_before_the_window_do_not_count():
    apart = WINDOW.total_seconds() + 1
    ends = list(itertools.islice(itertools.count(0.0, apart), 20))
    assert {each.total_seconds() for each in delays(ends)} == {1}


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_chance_shortens_a_delay_by_at_most_half(chance):
    ends = [0.0] * MAX_RESTARTS
    whole = restart_delay(ends, now=0.0, chance=0.0, was_ready=True)
    part = restart_delay(ends, now=0.0, chance=chance, was_ready=True)
    assert whole is not None
    assert part is not None
    assert whole / 2 <= part <= whole <= MAX_DELAY
