"""A sweep of 10,000 trials fits into the limits of Step Functions and DynamoDB."""

from __future__ import annotations

import json
from datetime import datetime, timezone

from runctl.aws.trial_ledger import trial_values
from runctl.control.results import PreparedSweep, RecordedTrial, TrialToRun
from runctl.model.hyperparameters import MAX_PARAMETERS, MAX_TEXT, Value
from runctl.model.request_checks import MAX_ARGS_BYTES, MAX_ENV_BYTES
from runctl.model.trial import MAX_SWEEP_NAME, Trial, TrialState, trial_run_id
from runctl.model.trial_options import MAX_TRIALS
from stacks.workflows.definition import read_definition

PAYLOAD = 256 * 1024
HISTORY = 25_000
ITEM = 400 * 1024
NAME = "x" * MAX_SWEEP_NAME
NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


def size(document: object) -> int:
    return len(json.dumps(document).encode())


def test_the_numbers_of_all_trials_fit_into_a_payload() -> None:
    prepared = PreparedSweep(
        group_id=NAME, sampler="random", instances=1000, numbers=tuple(range(1, MAX_TRIALS + 1))
    )
    assert size(prepared.as_document()) < PAYLOAD // 2


def test_the_results_of_all_children_fit_into_a_payload() -> None:
    over = read_definition("sweep")["States"]["Trials"]["ItemProcessor"]["States"]["TrialOver"]
    # Each child answers with its number, and the results are one list.
    assert over["Output"] == "{% $states.input.number %}"
    assert size(list(range(1, MAX_TRIALS + 1))) < PAYLOAD // 2


def test_the_request_of_the_largest_trial_fits_into_the_input_of_its_execution() -> None:
    request = {"args": ["x" * MAX_ARGS_BYTES], "env": {"A": "x" * MAX_ENV_BYTES}}
    chosen = {f"p{number:063d}": "x" * MAX_TEXT for number in range(MAX_PARAMETERS)}
    request["trial"] = {"hyperparameters": chosen}
    asked = TrialToRun(group_id=NAME, number=MAX_TRIALS, execution=NAME, request=request)
    assert size(asked.as_document()) < PAYLOAD // 2


def test_the_history_does_not_grow_with_the_number_of_trials() -> None:
    # The parent has one map, and each child its own history: at most 8 events a state, and a dozen
    # for each turn in which it waits for a run that another execution has.
    states = read_definition("sweep")["States"]
    children = states["Trials"]["ItemProcessor"]["States"]
    assert 8 * (len(states) + len(children)) < HISTORY // 50
    wait = children["WaitForRun"]["Seconds"]
    assert 12 * 14 * 24 * 3600 / wait < HISTORY - 100


def test_a_trial_is_a_small_item_and_its_name_a_valid_one() -> None:
    chosen = {f"p{n:063d}": Value("x" * MAX_TEXT, "x" * MAX_TEXT) for n in range(MAX_PARAMETERS)}
    trial = Trial(group_id=NAME, number=MAX_TRIALS, chosen=chosen, started_at=NOW, execution=NAME)
    assert size(trial_values(trial)) < ITEM // 10
    assert len(trial_run_id(NAME, MAX_TRIALS)) == 64
    recorded = RecordedTrial(
        group_id=NAME, number=MAX_TRIALS, state=TrialState.COMPLETED, is_running=False
    )
    assert size(recorded.as_document()) < 1000
