"""The rate at which an attempt ends shards, from which the remaining time follows."""

import pytest

from runctl.agent.processing.tally import RATE_SECONDS, Tally


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def begin(*, total: int = 10, done: int = 0, failed: int = 0) -> tuple[Tally, Clock]:
    clock = Clock()
    return Tally(total, done=done, failed=failed, tolerated=9, clock=clock), clock


def test_the_rate_is_unknown_until_a_shard_ends():
    tally, clock = begin()
    assert tally.progress().per_second is None
    clock.now += 4
    assert tally.progress().left is None
    tally.add_done()
    assert tally.progress().per_second == 0.25
    assert tally.progress().left.total_seconds() == 36


def test_what_an_earlier_attempt_did_is_no_rate_of_this_one():
    tally, clock = begin(done=5, failed=1)
    clock.now += 10
    assert (tally.progress().ended, tally.progress().per_second) == (6, None)
    tally.add_done()
    assert tally.progress().left.total_seconds() == 30


def test_a_shard_that_is_retried_makes_the_remaining_time_longer():
    tally, clock = begin()
    clock.now += 10
    tally.add_done()
    before = tally.progress().left
    clock.now += 10  # its retries end nothing
    assert tally.progress().left == 2 * before


def test_a_shard_that_failed_for_good_needs_no_more_time():
    tally, clock = begin(total=2)
    clock.now += 10
    tally.add_failure()
    assert tally.progress().left.total_seconds() == 10
    tally.add_done()
    assert (tally.progress().ended, tally.progress().left.total_seconds()) == (2, 0)


def test_the_rate_is_that_of_the_newest_ends():
    tally, clock = begin(total=10_000)
    for _ in range(600):
        clock.now += 0.1
        tally.add_done()
    for _ in range(100):
        clock.now += RATE_SECONDS / 10
        tally.add_done()
    assert tally.progress().per_second < 0.05


def test_the_rate_of_shards_that_take_hours_is_not_rounded_away():
    tally, clock = begin()
    clock.now += 30_000
    tally.add_done()
    assert tally.progress().left.total_seconds() == pytest.approx(9 * 30_000, rel=0.001)
