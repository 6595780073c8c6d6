"""The save interval, and what fits into a notice."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.policy.interval import (
    MAX_INTERVAL,
    MIN_INTERVAL,
    PRIOR_UPTIME,
    UNTIL_THE_FIRST,
    choose_interval,
    is_overdue,
    mean_uptime,
    notice_budget,
)

GIB = 1024**3
spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30))
costs = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=5))


def test_interval_follows_youngs_formula() -> None:
    chosen = choose_interval(
        save_cost=timedelta(seconds=10), trained=timedelta(hours=8), interruptions=4
    )
    assert chosen.every.total_seconds() == pytest.approx(math.sqrt(2 * 10 * 4 * 3600), abs=1)
    assert "10 s a save × 4.0 h between interruptions" in chosen.reason
    assert "4 interruption(s) in 8.0 h" in chosen.reason


def test_nothing_is_assumed_about_a_save_before_the_first_one() -> None:
    chosen = choose_interval(save_cost=None, trained=timedelta(0), interruptions=0)
    assert chosen.every == UNTIL_THE_FIRST
    assert "first save" in chosen.reason


def test_run_without_interruptions_has_the_prior() -> None:
    assert mean_uptime(trained=timedelta(0), interruptions=0) == PRIOR_UPTIME


def test_bound_that_determines_the_interval_is_named() -> None:
    chosen = choose_interval(
        save_cost=timedelta(milliseconds=10), trained=timedelta(0), interruptions=20
    )
    assert chosen.every == MIN_INTERVAL
    assert "limited to 60 s" in chosen.reason


@given(costs, spans, st.integers(0, 500))
def test_interval_stays_between_its_bounds(
    cost: timedelta, trained: timedelta, interruptions: int
) -> None:
    chosen = choose_interval(save_cost=cost, trained=trained, interruptions=interruptions)
    assert MIN_INTERVAL <= chosen.every <= MAX_INTERVAL


@given(costs, spans, st.integers(0, 500))
def test_more_interruptions_never_make_saves_rarer(
    cost: timedelta, trained: timedelta, interruptions: int
) -> None:
    calm = choose_interval(save_cost=cost, trained=trained, interruptions=interruptions)
    rough = choose_interval(save_cost=cost, trained=trained, interruptions=interruptions + 1)
    assert rough.every <= calm.every


@given(costs, costs, spans, st.integers(0, 500))
def test_dearer_saves_are_never_more_frequent(
    one: timedelta, other: timedelta, trained: timedelta, interruptions: int
) -> None:
    cheap, dear = sorted([one, other])
    first = choose_interval(save_cost=cheap, trained=trained, interruptions=interruptions)
    second = choose_interval(save_cost=dear, trained=trained, interruptions=interruptions)
    assert first.every <= second.every


def test_checkpoint_that_uploads_within_the_notice_causes_no_warning() -> None:
    budget = notice_budget(size_bytes=10 * GIB, bytes_per_second=GIB)
    assert budget.fits
    assert budget.warning == ""


def test_checkpoint_too_large_for_the_notice_is_reported_with_its_figures() -> None:
    budget = notice_budget(
        size_bytes=60 * GIB, bytes_per_second=GIB / 4, save_cost=timedelta(seconds=20)
    )
    assert not budget.fits
    assert budget.needed == timedelta(seconds=260)
    assert "61,440 MiB at 256 MiB/s need 4 min, EC2 gives 110 s" in budget.warning


def test_slow_save_counts_even_when_the_upload_is_quick() -> None:
    assert not notice_budget(
        size_bytes=1, bytes_per_second=GIB, save_cost=timedelta(minutes=2)
    ).fits


def test_two_intervals_without_a_checkpoint_are_overdue() -> None:
    every = timedelta(minutes=10)
    assert not is_overdue(since_commit=timedelta(minutes=20), every=every)
    assert is_overdue(since_commit=timedelta(minutes=20, seconds=1), every=every)
