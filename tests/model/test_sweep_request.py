"""The request of a sweep: every problem is reported at once, before anything is started."""

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.hyperparameters import read_value
from runctl.model.request import RunRequest
from runctl.model.request_parsing import parse_request
from runctl.model.sweep_request import (
    SweepRequest,
    argument_words,
    parse_sweep_request,
    trial_document,
)

CODE = "s3://bucket/code/abc.tar.gz"
RUN = {"script": "train.py", "code": CODE, "args": ["--epochs", "3"]}
SPACE = {"lr": "0.001,0.01", "size": "32,64"}


def parsed(run=None, **sweep):
    document = {**(RUN if run is None else run), "sweep": {"hyperparameters": SPACE, **sweep}}
    return parse_sweep_request(document, group_id="search")


def problems(document):
    with pytest.raises(InvalidRequestError) as caught:
        parse_sweep_request(document, group_id="search")
    return caught.value.problems


def test_everything_but_the_sweep_is_the_request_of_each_trial():
    request = parsed()
    chosen = request.sweep.space.at(2)
    document = trial_document(request, group_id="search", number=3, chosen=chosen)
    assert document["args"] == ["--epochs", "3", "--lr", "0.01", "--size", "32"]
    assert document["trial"] == {"number": 3, "hyperparameters": {"lr": 0.01, "size": 32}}
    trial = parse_request(document)
    assert (trial.group, trial.trial.number, trial.program.script) == ("search", 3, "train.py")
    assert type(trial) is RunRequest


def test_the_stored_form_is_read_back_unchanged():
    request = parsed(sampler="random", max_trials=3, seed=7, deadline="2030-01-01T00:00:00Z")
    stored = request.as_document()
    assert SweepRequest.from_stored(stored) == request
    assert parse_sweep_request(stored, group_id="search") == request


def test_an_earlier_deadline_of_the_trials_stays():
    request = parsed(
        {**RUN, "deadline": "2029-01-01T00:00:00+00:00"}, deadline="2030-01-01T00:00:00Z"
    )
    document = trial_document(request, group_id="s", number=1, chosen=request.sweep.space.at(0))
    assert document["deadline"] == "2029-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("underscores", ["--learning_rate", "0.1", "--mode=-x", "--shift", "-1"]),
        ("hyphens", ["--learning-rate", "0.1", "--mode=-x", "--shift", "-1"]),
        ("assignments", ["learning_rate=0.1", "mode=-x", "shift=-1"]),
        ("none", []),
    ],
)
def test_hyperparameters_are_passed_in_the_style_of_the_script(style, words):
    chosen = {"learning_rate": "0.1", "mode": "-x", "shift": "-1"}
    values = {name: read_value(text) for name, text in chosen.items()}
    assert argument_words(values, style) == words


def test_a_command_gets_them_appended():
    request = parsed({"command": ["python", "-m", "train"]})
    document = trial_document(request, group_id="s", number=1, chosen=request.sweep.space.at(0))
    assert document["command"][3:] == ["--lr", "0.001", "--size", "32"]


def test_the_program_of_an_image_gets_only_variables():
    request = parsed({"docker": {"image": "train:1"}})
    document = trial_document(request, group_id="s", number=1, chosen=request.sweep.space.at(0))
    assert not document.get("args")
    assert "command" not in document


@pytest.mark.parametrize(
    ("run", "style", "field"),
    [
        ({**RUN, "args": ["--lr", "0.1"]}, "underscores", "args"),
        ({**RUN, "args": ["--batch-size=8"]}, "hyphens", "args"),
        ({"command": ["python", "-m", "train", "batch_size=8"]}, "assignments", "command"),
    ],
)
def test_a_hyperparameter_that_is_an_argument_as_well_is_refused(run, style, field):
    space = {"lr": "1,2", "batch_size": "8,16"}
    (problem,) = problems({**run, "sweep": {"hyperparameters": space, "arguments": style}})
    assert problem.field == field
    assert "is a hyperparameter of the sweep, too; remove one of them" in problem.message
    parse_sweep_request(
        {**run, "sweep": {"hyperparameters": {"momentum": "0,1"}, "arguments": style}},
        group_id="search",
    )
    parse_sweep_request(
        {**run, "sweep": {"hyperparameters": space, "arguments": "none"}}, group_id="search"
    )


BAD_SWEEPS = [
    ({"hyperparameters": {}}, "sweep.hyperparameters", "a grid of 0 points; name hyperparameters"),
    ({"hyperparameters": []}, "sweep.hyperparameters", "must be an object"),
    ({"hyperparameters": {"lr": ""}}, "sweep.hyperparameters", "lr: has no values"),
    ({"hyperparameters": {"lr": "1..0"}}, "sweep.hyperparameters", "the ends are reversed"),
    ({"hyperparameters": {"1": "1"}}, "sweep.hyperparameters", "'1' is not a valid name"),
    (
        {"hyperparameters": {f"p{n}": "1" for n in range(51)}},
        "sweep.hyperparameters",
        "51 hyperparameters exceed the limit of 50",
    ),
    (
        {"hyperparameters": dict.fromkeys("abc", "1..215")},
        "sweep.hyperparameters",
        "a grid of 9,938,375 points exceeds the limit of 10,000 trials; give fewer values, or",
    ),
    (
        {"hyperparameters": {"lr": "1e-5..1e-1:log"}},
        "sweep.hyperparameters",
        "lr: 1e-5..1e-1:log has no grid; append a number of steps, such as 1e-5..1e-1:log:5, or",
    ),
    (
        {"hyperparameters": {"lr": "0.0..1.0"}, "sampler": "random"},
        "sweep.max_trials",
        "missing; lr has no end of values, so give the number of trials",
    ),
    ({"sampler": "bayes"}, "sweep.sampler", "known values: grid, random, tpe"),
    ({"pruner": "median"}, "sweep.pruner", "known values: none, asha"),
    ({"sampler": "tpe"}, "sweep.metric", "missing; tpe needs a metric, by its name as the script"),
    ({"pruner": "asha"}, "sweep.metric", "missing; asha needs a metric"),
    ({"direction": "maximize"}, "sweep.metric", "missing; name what to maximize"),
    (
        {"sampler": "tpe", "metric": "loss", "max_trials": 1001},
        "sweep.max_trials",
        "1001 trials exceed the limit of 1000 of the sampler tpe",
    ),
    ({"metric": 3}, "sweep.metric", "is not the name of a metric"),
    ({"direction": "down"}, "sweep.direction", "known values: minimize, maximize"),
    ({"instances": 0}, "sweep.instances", "whole number from 1 to 1000"),
    ({"max_trials": 10_001}, "sweep.max_trials", "whole number from 1 to 10000"),
    ({"seed": -1}, "sweep.seed", "whole number"),
    ({"deadline": "soon"}, "sweep.deadline", "is not a date and time"),
    ({"arguments": "json"}, "sweep.arguments", "known values: underscores, hyphens"),
    ({"first_rung": 0}, "sweep.first_rung", "whole number from 1"),
    ({"reduction_factor": 1}, "sweep.reduction_factor", "whole number from 2"),
    ({"samples": "grid"}, "sweep.samples", "unknown field; did you mean sweep.sampler?"),
]


@pytest.mark.parametrize(("sweep", "field", "message"), BAD_SWEEPS)
def test_invalid_option_of_a_sweep_is_reported_with_its_field(sweep, field, message):
    found = problems({**RUN, "sweep": {"hyperparameters": SPACE, **sweep}})
    assert (found[0].field, message in found[0].message) == (field, True), found


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        (RUN, "sweep", "missing; give an object with hyperparameters"),
        ({**RUN, "sweep": {}}, "sweep", "hyperparameters is missing"),
        ({"sweep": {"hyperparameters": SPACE}}, "script", "missing"),
        (
            {**RUN, "instance_id": "i-0123456789abcdef0", "sweep": {"hyperparameters": SPACE}},
            "instance_id",
            "a sweep launches its own instances",
        ),
        ({**RUN, "kind": "environment", "sweep": {"hyperparameters": SPACE}}, "kind", "swept"),
        ([], "input", "must be a JSON object"),
    ],
)
def test_what_a_sweep_lacks_or_cannot_have_is_reported(document, field, message):
    found = problems(document)
    assert (found[0].field, message in found[0].message) == (field, True), found


def test_a_hyperparameter_that_looks_like_a_secret_is_refused():
    (problem,) = problems(
        {**RUN, "sweep": {"hyperparameters": {"api_key": ["x9fK2mQ8vL4nR7tB", "y"]}}}
    )
    assert "looks like a secret" in problem.message


@pytest.mark.parametrize(
    ("sweep", "trials"),
    [
        ({}, 4),
        ({"max_trials": 3}, 3),
        ({"max_trials": 100}, 4),
        ({"sampler": "random", "max_trials": 100}, 4),
        ({"hyperparameters": {"lr": "0.0..1.0"}, "sampler": "random", "max_trials": 100}, 100),
        (
            {"hyperparameters": {"a": "1..2000"}, "sampler": "tpe", "metric": "loss"},
            1000,
        ),
        ({"hyperparameters": dict.fromkeys("ab", "1..300"), "max_trials": 10_000}, 10_000),
    ],
)
def test_the_number_of_trials_is_the_least_of_its_limits(sweep, trials):
    assert parsed(**sweep).sweep.trials == trials
