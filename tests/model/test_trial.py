"""Trials: each end of a run is one state, and the reason says what to do."""

from datetime import datetime, timezone

import pytest

from runctl.model.hyperparameters import Value
from runctl.model.outcome import RunStatus
from runctl.model.trial import (
    Trial,
    TrialEnd,
    TrialState,
    best_trial,
    end_of_trial,
    trial_run_id,
)

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


def end(status=RunStatus.COMPLETED, *, metric="loss", measured=None, **more):
    return end_of_trial(status, reason="why", metric=metric, measured=measured or {}, **more)


def test_a_completed_run_with_the_metric_completes_the_trial():
    assert end(measured={"loss": 0.5}) == TrialEnd(state=TrialState.COMPLETED, value=0.5)


def test_without_a_metric_the_trial_needs_no_value():
    assert end(metric="") == TrialEnd(state=TrialState.COMPLETED)


def test_a_metric_that_was_never_reported_fails_the_trial_and_names_the_others():
    ended = end(measured={"step": 3.0, "val_acc": 0.9, "train_loss": 0.1})
    assert (ended.state, ended.value) == (TrialState.FAILED, None)
    assert "name one of those that it reported (train_loss, val_acc) as the metric" in ended.reason


def test_a_script_without_metrics_is_named_as_such():
    assert "reported no metrics; write loss as a line of JSON" in end().reason


def test_a_metric_that_ended_as_nan_fails_the_trial():
    ended = end(not_finite=frozenset({"loss"}))
    assert ended.state is TrialState.FAILED
    assert "the last value of loss is NaN or infinite" in ended.reason


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RunStatus.FAILED, TrialState.FAILED),
        (RunStatus.STOPPED, TrialState.STOPPED),
        (RunStatus.INTERRUPTED, TrialState.STOPPED),
        (RunStatus.UNKNOWN, TrialState.FAILED),
    ],
)
def test_other_ends_of_the_run_keep_its_reason_and_last_value(status, state):
    ended = end(status, measured={"loss": 0.5})
    assert ended == TrialEnd(state=state, value=0.5, reason="why")


def test_a_pruned_trial_is_not_a_completed_one():
    ended = end(measured={"loss": 0.5}, pruned_at=9)
    assert (ended.state, ended.value) == (TrialState.PRUNED, 0.5)


def trial(number, value, state=TrialState.COMPLETED):
    return Trial(
        group_id="search",
        number=number,
        chosen={"lr": Value("0.1", 0.1)},
        started_at=NOW,
        execution=trial_run_id("search", number),
        state=state,
        value=value,
    )


def test_the_best_trial_is_a_completed_one_and_the_first_of_several():
    trials = [
        trial(1, 0.5),
        trial(2, 0.1, TrialState.PRUNED),
        trial(3, 0.4),
        trial(4, 0.4),
        trial(5, None),
    ]
    assert best_trial(trials, direction="minimize") == trials[2]
    assert best_trial(trials, direction="maximize") == trials[0]
    assert best_trial([], direction="minimize") is None


def test_runs_of_trials_sort_by_number():
    assert trial_run_id("lr-search", 7) == "lr-search-0007"
    assert trial_run_id("lr-search", 10_000) == "lr-search-10000"
