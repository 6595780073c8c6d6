"""The verdict on a death after a restore: the checkpoint is suspect, or the program is at fault."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.policy.fallback import (
    MAX_STEPS_BACK,
    SAYS_NOTHING,
    Death,
    DeathCause,
    continued_from,
    in_order_of_trust,
    judge,
    may_fall_back,
)


def died(seconds=4.0, *, words="FileNotFoundError", code=1, **facts):
    return Death(exit_code=code, failure_id=words, lived=timedelta(seconds=seconds), **facts)


def test_a_trainer_that_dies_at_once_is_restarted_from_the_previous_checkpoint():
    assert may_fall_back([died()])


def test_a_fallback_happens_three_times_at_most_whatever_the_failure_says():
    assert may_fall_back([died()] * MAX_STEPS_BACK)
    assert not may_fall_back([died()] * (MAX_STEPS_BACK + 1))
    assert judge([died()] * (MAX_STEPS_BACK + 1)) is DeathCause.CHECKPOINT


@pytest.mark.parametrize("code", sorted(SAYS_NOTHING))
def test_being_killed_or_never_started_says_nothing_about_the_checkpoint(code):
    assert judge([died(code=code)]) is DeathCause.UNRELATED


@pytest.mark.parametrize("code", [1, 2, 134, 139, 255, -6, -11])
def test_any_other_exit_code_makes_the_checkpoint_suspect(code):
    assert judge([died(code=code)]) is DeathCause.CHECKPOINT


def test_a_trainer_that_saved_beyond_its_checkpoint_did_not_die_from_it():
    assert judge([died(continued=True)]) is DeathCause.UNRELATED


def test_a_proven_checkpoint_is_never_suspect():
    assert judge([died(is_certain=True)]) is DeathCause.PROGRAM
    assert judge([died(), died(is_certain=True)]) is DeathCause.PROGRAM


def test_a_failure_caused_by_the_machine_says_nothing_about_the_checkpoint():
    assert judge([died(has_other_cause=True)]) is DeathCause.UNRELATED


def test_a_trainer_that_ran_long_without_a_save_gets_one_more_chance():
    late = died(3600)
    assert may_fall_back([late])
    assert judge([late, died(3600, words="another")]) is DeathCause.PROGRAM


def test_the_same_failure_after_a_long_run_is_the_program():
    assert judge([died(4), died(3600)]) is DeathCause.PROGRAM
    assert may_fall_back([died(4), died(3600, words="another")])


deaths = st.lists(
    st.builds(
        died,
        st.floats(0, 7200),
        words=st.sampled_from("ab"),
        code=st.integers(-15, 255).filter(bool),
        continued=st.booleans(),
        is_certain=st.booleans(),
    ),
    min_size=1,
    max_size=9,
)


@given(deaths=deaths)
def test_nothing_falls_back_more_than_three_times(deaths):
    if may_fall_back(deaths):
        assert len(deaths) <= MAX_STEPS_BACK
        assert judge(deaths) is DeathCause.CHECKPOINT


@given(deaths=deaths)
def test_no_fallback_follows_a_checkpoint_that_was_continued(deaths):
    if deaths[-1].continued or deaths[-1].is_certain:
        assert not may_fall_back(deaths)


# Whether a trainer continued from its checkpoint.


def saved(step, **files):
    entries = tuple(
        Entry(path=path, kind="file", mode=0o644, mtime_ns=written, size_bytes=size)
        for path, (size, written) in files.items()
    )
    return Manifest(run_id="run-1", step=step, attempt=1, taken_at="", entries=entries)


def test_a_later_step_shows_that_the_trainer_continued():
    assert continued_from(saved(10), saved(11))
    assert not continued_from(saved(10), saved(10))
    # It started over, which says nothing about its checkpoint.
    assert not continued_from(saved(10), saved(3))


def test_without_a_step_a_save_of_the_same_size_shows_that_it_continued():
    given_files = {"model": (1000, 1), "log": (10, 1)}
    before = saved(None, **given_files)
    assert continued_from(before, saved(None, **{**given_files, "model": (1000, 2)}))
    assert continued_from(before, saved(None, **given_files, model2=(900, 2)))


def test_without_a_step_a_log_written_before_the_load_shows_nothing():
    given_files = {"model": (1000, 1), "log": (10, 1)}
    before = saved(None, **given_files)
    assert not continued_from(before, saved(None, **{**given_files, "log": (20, 2)}))
    assert not continued_from(before, saved(7, **given_files, settings=(90, 2)))
    assert not continued_from(before, before)


# The order in which they are offered.


@given(
    keys=st.sets(st.integers(0, 20).map(lambda n: f"s{n:03d}"), max_size=8),
    suspects=st.frozensets(st.integers(0, 20).map(lambda n: f"s{n:03d}"), max_size=8),
    tried=st.frozensets(st.integers(0, 20).map(lambda n: f"s{n:03d}"), max_size=4),
)
def test_no_suspect_is_offered_before_another(keys, suspects, tried):
    offered = in_order_of_trust(keys, suspects=suspects, tried=tried)
    assert set(offered) == keys - tried
    doubts = [key in suspects for key in offered]
    assert doubts == sorted(doubts)
    good = [key for key in offered if key not in suspects]
    assert good == sorted(good, reverse=True)
