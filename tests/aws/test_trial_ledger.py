"""The contract of the ledger's trials, for the table and for the fake of the control tests."""

from datetime import timedelta

import pytest

from runctl.aws.trial_ledger import DynamoTrialLedger
from runctl.model.errors import NotFoundError
from runctl.model.hyperparameters import Value
from runctl.model.trial import Trial, TrialEnd, TrialState, trial_run_id
from tests.aws.conftest import make_table
from tests.control.fakes import START
from tests.control.sweeps import MemoryTrials

LATER = START + timedelta(minutes=5)
CHOSEN = {"lr": Value("0.10", 0.1), "size": Value("32", 32), "nesterov": Value("true", True)}
STOPPED = TrialEnd(state=TrialState.STOPPED, reason="stopped")


@pytest.fixture(params=["table", "memory"])
def trials(request, aws):
    return DynamoTrialLedger(*make_table()) if request.param == "table" else MemoryTrials()


def a_trial(number=1, group_id="search"):
    return Trial(
        group_id=group_id,
        number=number,
        chosen=CHOSEN,
        started_at=START,
        execution=trial_run_id(group_id, number),
    )


def test_a_trial_is_read_back_as_it_was_written(trials):
    assert trials.create_trial(a_trial()) == a_trial()
    assert trials.find_trial("search", 1) == a_trial()
    assert trials.find_trial("search", 2) is None


def test_the_first_choice_of_hyperparameters_stays(trials):
    trials.create_trial(a_trial())
    other = Trial(**{**vars(a_trial()), "chosen": {"lr": Value("1", 1)}})
    assert trials.create_trial(other) == a_trial()


def test_trials_are_listed_by_number_and_sweep(trials):
    for number in (10, 2, 100):
        trials.create_trial(a_trial(number))
        trials.create_trial(a_trial(number, "search-2"))
        trials.record_rung("search", number, rung=3, value=0.5, goes_on=True)
    assert trials.list_trials("search") == [a_trial(number) for number in (2, 10, 100)]


@pytest.mark.parametrize("value", [None, 0.1 + 0.2, -1e-300, 12345678.9])
def test_the_first_end_stays_with_its_value_as_it_is(trials, value):
    trials.create_trial(a_trial())
    end = TrialEnd(state=TrialState.COMPLETED, value=value, reason="done")
    ended = trials.end_trial(a_trial(), end=end, now=LATER)
    assert (ended.state, ended.value, ended.reason) == (TrialState.COMPLETED, value, "done")
    assert ended.ended_at == LATER
    assert trials.end_trial(ended, end=STOPPED, now=LATER) == ended


def test_a_stopped_trial_runs_again_once_for_each_execution(trials):
    trials.create_trial(a_trial())
    stopped = trials.end_trial(a_trial(), end=STOPPED, now=LATER)
    again = trials.restart_trial(stopped, execution="search-0001-r2")
    assert (again.state, again.execution) == (TrialState.RUNNING, "search-0001-r2")
    assert (again.reason, again.ended_at) == ("", None)
    assert trials.restart_trial(stopped, execution="search-0001-r3") == again
    # A late answer of the execution before does not end it.
    assert trials.end_trial(stopped, end=STOPPED, now=LATER) == again


def test_a_completed_trial_does_not_run_again(trials):
    trials.create_trial(a_trial())
    end = TrialEnd(state=TrialState.COMPLETED, value=1.0)
    ended = trials.end_trial(a_trial(), end=end, now=LATER)
    assert trials.restart_trial(ended, execution="search-0001-r2") == ended


def test_the_first_decision_at_a_rung_stays(trials):
    trials.create_trial(a_trial())
    assert trials.find_rung("search", 1, rung=3) is None
    assert trials.record_rung("search", 1, rung=3, value=0.5, goes_on=True)
    assert trials.record_rung("search", 1, rung=3, value=0.9, goes_on=False)
    assert trials.find_rung("search", 1, rung=3) is True
    assert not trials.record_rung("search", 1, rung=9, value=0.9, goes_on=False)
    assert not trials.record_rung("search", 1, rung=27, value=0.9, goes_on=False)
    assert trials.find_trial("search", 1).pruned_at == 9


def test_values_at_a_rung_are_those_of_its_sweep(trials):
    for number in (1, 2):
        trials.record_rung("search", number, rung=3, value=number / 3, goes_on=True)
    trials.record_rung("search", 3, rung=30, value=7.0, goes_on=True)
    trials.record_rung("other", 1, rung=3, value=7.0, goes_on=True)
    assert trials.rung_values("search", 3) == {1: 1 / 3, 2: 2 / 3}


def test_what_a_newer_version_wrote_can_be_read(aws):
    client, name = make_table()
    trials = DynamoTrialLedger(client, name)
    client.put_item(
        TableName=name,
        Item={
            "pk": {"S": "GROUP#search"},
            "sk": {"S": "TRIAL#00001"},
            "group_id": {"S": "search"},
            "number": {"N": "1"},
            "chosen": {"S": '{"lr": 0.1}'},
            "state": {"S": "paused"},
            "value": {"S": "nan"},
        },
    )
    found = trials.find_trial("search", 1)
    assert (found.state, found.value, found.chosen) == (TrialState.UNKNOWN, None, {})


def test_an_unknown_trial_cannot_end(aws):
    with pytest.raises(NotFoundError, match="the sweep search has no trial 1"):
        DynamoTrialLedger(*make_table()).end_trial(a_trial(), end=STOPPED, now=LATER)
