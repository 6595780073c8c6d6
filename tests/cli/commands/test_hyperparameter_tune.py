"""`runctl aws hyperparameter-tune` and `runctl sweep`: what is refused, sent and shown."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl.aws.deployment import read_deployment
from runctl.aws.services import AwsServices
from runctl.model.group import Group, WarmInstance
from runctl.model.hyperparameters import Value
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.sweep_request import parse_sweep_request
from runctl.model.trial import Trial, TrialEnd, TrialState, trial_run_id
from tests.cli.deployed import BUCKET

TUNE = ("aws", "hyperparameter-tune", "--script", "train.py")
NOW = datetime.now(timezone.utc)
REQUEST = {
    "command": ["train"],
    "sweep": {"hyperparameters": {"lr": "0.1,0.2,0.3"}, "metric": "loss", "instances": 2},
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--hyperparameters lr:0.1 lr:0.2", "--hyperparameters: lr is given twice"),
        ("--hyperparameters lr", "--hyperparameters: 'lr' has no ':'"),
        ("--hyperparameters lr:0.1, ", "--hyperparameters: lr: '0.1,' has an empty value"),
        ("--hyperparameters a:1..9999 b:1..1000", "a grid of 9,999,000 points exceeds"),
        ("--hyperparameters lr:1e-5..1e-1:log", "lr: 1e-5..1e-1:log has no grid"),
        ("--hyperparameters lr:0..1:log --sampler random", "must begin above 0"),
        ("--hyperparameters lr:0.1 --sampler best", "--sampler: 'best' is not a valid sampler"),
        ("--hyperparameters lr:0.1 --pruner asha", "asha needs a metric"),
        ("--hyperparameters lr:0.1 --instances 0", "--instances: 0 is not a whole number from 1"),
        ("--hyperparameters lr:0.1 --spot --market on-demand", "--spot: contradicts --market"),
        (
            "--hyperparameters lr:0.1 --deadline 2020-01-01T00:00:00Z",
            "--deadline: 2020-01-01T00:00:00+00:00 has passed",
        ),
        ("--hyperparameters lr:0.1 --command", "--script: mutually exclusive with --command"),
        (f"--hyperparameters lr:0.1 --name {'x' * 59}", "is too long for a sweep"),
        ("--spot", "Missing option '--hyperparameters'"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_packed(runctl, project, words, message):
    done = runctl(*TUNE, *words.split())
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train.py --hyperparameters lr:0.1", "--script: missing; give --script train.py"),
        (
            "--hyperparameters lr:0.1 -- --size 2",
            "name the program, whose arguments are '--size 2'",
        ),
    ],
)
def test_a_script_without_its_option_is_named(runctl, project, words, message):
    done = runctl(*TUNE[:2], *words.split())
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_roadmaps_command_describes_nine_trials(runctl, project, deployed):
    done = runctl(
        "--json", *TUNE, "--hyperparameters", "learning_rate:0.001,0.01,0.1",
        "batch_size:32,64,128", "--instances", "5", "--spot", "--dry-run", "--", "--epochs", "3",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    request = done.document["request"]
    assert request["script"] == "train.py"
    assert request["args"] == ["--epochs", "3"]
    assert request["market"] == "spot"
    assert request["sweep"] == {
        "hyperparameters": {"learning_rate": "0.001,0.01,0.1", "batch_size": "32,64,128"},
        "instances": 5,
    }
    assert parse_sweep_request(request, group_id="x").sweep.trials == 9


def test_a_command_of_several_words_is_swept(runctl, project, deployed):
    done = runctl(
        "--json", "aws", "hyperparameter-tune", "--command", "--hyperparameters", "lr:1,2",
        "--arguments", "assignments", "--dry-run", "--", "python", "train.py",
    )  # fmt: skip
    assert done.document["request"]["command"] == ["python", "train.py"]


@pytest.fixture
def sweep(deployed):
    """A sweep with a completed, a failed and a running trial, of which nothing runs."""
    deployment = read_deployment(deployed.clients.get("ssm"), name="runctl")
    services = AwsServices(deployed.clients, deployment)
    request = parse_sweep_request(REQUEST, group_id="search")
    services.groups.create_group(
        Group(
            group_id="search",
            kind="sweep",
            execution="search",
            execution_arn="arn:aws:states:us-east-1:123456789012:execution:runctl-sweep:search",
            started_at=NOW - timedelta(minutes=5),
            request=request.as_document(),
        )
    )
    ends = [
        TrialEnd(state=TrialState.COMPLETED, value=0.25),
        TrialEnd(state=TrialState.FAILED, reason="exit code 1: no data"),
        None,
    ]
    for number, end in enumerate(ends, 1):
        trial = services.trials.create_trial(
            Trial(
                group_id="search",
                number=number,
                chosen={"lr": Value(f"0.{number}", number / 10)},
                started_at=NOW,
                execution=trial_run_id("search", number),
            )
        )
        if end is not None:
            services.trials.end_trial(trial, end=end, now=NOW)
    return services


def test_the_page_shows_each_trial_and_the_best(runctl, sweep):
    done = runctl("sweep", "status", "search")
    assert done.code == 0, done.stderr
    assert "2 of 3 trials: 1 running, 1 completed, 1 failed" in done.stdout
    assert "trial 1: loss 0.25 with lr=0.1 (search-0001)" in done.stdout
    assert "trial 2: exit code 1: no data" in done.stdout


def test_the_document_has_every_trial(runctl, sweep):
    document = runctl("--json", "sweep", "status", "search").document
    assert [trial["state"] for trial in document["trials"]] == ["completed", "failed", "running"]
    assert (document["best"]["trial"], document["trial_count"]) == (1, 3)


def test_the_sweep_counts_the_time_in_which_its_instances_waited(runctl, sweep):
    node = NodeId(trial_run_id("search", 1), 1, 0)
    sweep.groups.offer_warm(WarmInstance(group_id="search", instance_id="i-1", node=node))
    sweep.groups.keep_warm(
        "search", "i-1", node=node, pool="m5.large/z/spot", keep_seconds=120, now=NOW
    )
    sweep.groups.leave_warm("search", "i-1", node=node, now=NOW + timedelta(seconds=90))
    document = runctl("--json", "sweep", "status", "search").document
    assert (document["machine_seconds"], document["waiting_seconds"]) == ({}, {"spot": 90})
    assert "1m 30s spot waiting for further runs" in runctl("sweep", "status", "search").stdout


def test_a_trial_without_an_end_is_stale_once_the_sweep_has_ended(runctl, sweep):
    sweep.groups.end_group("search", status=RunStatus.FAILED, reason="lost", now=NOW)
    document = runctl("--json", "sweep", "status", "search").document
    assert document["trials"][2]["state"] == "stale"
    assert document["counts"] == {"completed": 1, "failed": 1, "stale": 1}


def test_the_best_trial_is_printed_with_its_run(runctl, sweep, deployed):
    deployed.begin("search-0001")
    deployed.train("search-0001", 1)
    done = runctl("sweep", "best", "search")
    assert done.stdout == "trial 1: loss 0.25 with lr=0.1 (search-0001)\n"
    deployed.commit("search-0001", 1, 3)
    assert "runctl checkpoints pull search-0001" in runctl("sweep", "best", "search").stdout
    assert runctl("--json", "sweep", "best", "search").document["hyperparameters"] == {"lr": 0.1}


def test_sweeps_are_listed(runctl, sweep):
    assert "search" in runctl("sweep", "list").stdout
    (entry,) = runctl("--json", "sweep", "list").document["sweeps"]
    assert (entry["sweep"], entry["status"]) == ("search", "running")
    reason = "no trial is completed; trial 1: exit code 2: usage: train.py\nbad --lr"
    sweep.groups.end_group("search", status=RunStatus.FAILED, reason=reason, now=NOW)
    printed = " ".join(runctl("sweep", "list").stdout.split())
    assert printed.endswith("no trial is completed; trial 1: … bad --lr")


def test_an_unknown_sweep_is_not_found(runctl, sweep):
    done = runctl("sweep", "status", "search2")
    assert done.code == 4
    assert "sweep 'search2' does not exist; did you mean search?" in done.stderr


@pytest.mark.parametrize("command", ["status", "stop", "resume", "logs"])
def test_the_commands_of_runs_name_those_of_sweeps(runctl, sweep, command):
    done = runctl(command, "search")
    assert done.code == 4
    assert "search is a sweep, not a run; see `runctl sweep status search`" in done.stderr


def test_the_name_of_a_sweep_is_taken(runctl, project, sweep):
    done = runctl(*TUNE, "--hyperparameters", "lr:1", "--name", "search")
    assert done.code == 2
    assert "continue it with `runctl sweep resume search`" in done.stderr


def test_a_sweep_that_has_ended_is_not_stopped_again(runctl, sweep):
    sweep.groups.end_group("search", status=RunStatus.COMPLETED, reason="", now=NOW)
    done = runctl("sweep", "stop", "search")
    assert done.code == 0
    assert "search has already ended (completed)" in done.stderr


def test_the_results_and_the_plots_of_an_ended_sweep_are_named(runctl, sweep):
    where = f"s3://{BUCKET}/groups/search/"
    assert where not in runctl("sweep", "status", "search").stdout
    sweep.groups.end_group("search", status=RunStatus.COMPLETED, reason="", now=NOW)
    results, plots = f"results: {where}results.csv and results.json", f"plots: {where}plots/"
    shown = runctl("sweep", "status", "search").stdout.splitlines()
    # One value is too few for plots.
    assert (results in shown, plots in shown) == (True, False)
    trial = sweep.trials.find_trial("search", 3)
    sweep.trials.end_trial(trial, end=TrialEnd(state=TrialState.COMPLETED, value=0.2), now=NOW)
    assert runctl("sweep", "status", "search").stdout.splitlines()[-2:] == [results, plots]


def test_the_results_are_one_document(runctl, sweep):
    sweep.groups.end_group("search", status=RunStatus.COMPLETED, reason="", now=NOW)
    json.loads(runctl("--json", "sweep", "stop", "search").stdout)
