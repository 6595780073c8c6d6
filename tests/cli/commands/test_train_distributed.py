"""`runctl aws train-distributed`: its request, and what it refuses before anything is started."""

import pytest

from tests.cli.commands.test_aws_train import request_of

START = ("aws", "train-distributed", "--detach", "--name", "x")


def test_the_script_may_be_an_option(project, deployed, runctl):
    words = ("--script", "train.py", "--nodes", "4", "--instance-type", "g4dn.xlarge", "--spot")
    assert runctl(*START, *words).code == 0
    request = request_of(deployed, "x")
    del request["code"]
    assert request == {
        "script": "train.py", "nodes": 4, "instance_types": ["g4dn.xlarge"], "market": "spot",
    }  # fmt: skip


def test_the_script_may_be_an_argument_whose_arguments_follow_it(project, deployed, runctl):
    assert runctl(*START, "--nodes", "2", "train.py", "--nodes", "9", "--lr", "1").code == 0
    request = request_of(deployed, "x")
    assert (request["nodes"], request["args"]) == (2, ["--nodes", "9", "--lr", "1"])


def test_arguments_of_a_script_that_is_an_option_follow_two_dashes(project, deployed, runctl):
    assert runctl(*START, "--script", "train.py", "--nodes", "2", "--", "--lr", "1").code == 0
    request = request_of(deployed, "x")
    assert (request["script"], request["args"]) == ("train.py", ["--lr", "1"])


def test_every_option_of_gangs_sets_its_field(project, deployed, runctl):
    words = ("--nodes", "4", "--min-nodes", "2", "--spares", "1", "--processes-per-node", "8",
             "--replace-stragglers", "train.py")  # fmt: skip
    assert runctl(*START, *words).code == 0
    request = request_of(deployed, "x")
    fields = ("nodes", "min_nodes", "spares", "processes_per_node", "replace_stragglers")
    assert [request[name] for name in fields] == [4, 2, 1, 8, True]


def test_auto_leaves_the_number_of_processes_to_the_machines(project, deployed, runctl):
    words = ("--nodes", "2", "--processes-per-node", "auto", "train.py")
    assert runctl(*START, *words).code == 0
    assert request_of(deployed, "x")["processes_per_node"] == "auto"


def test_an_ordinary_run_may_have_several_nodes(project, deployed, runctl):
    assert runctl("aws", "train", "--detach", "--name", "x", "--nodes", "3", "train.py").code == 0
    assert request_of(deployed, "x")["nodes"] == 3


def test_the_settings_may_say_how_many_nodes_there_are(project, deployed, runctl):
    (project / ".runctl.toml").write_text("nodes = 4\nmin_nodes = 2\n")
    assert runctl(*START, "train.py").code == 0
    request = request_of(deployed, "x")
    assert (request["nodes"], request["min_nodes"]) == (4, 2)


def test_a_dry_run_shows_the_nodes(project, deployed, runctl):
    done = runctl("aws", "train-distributed", "--dry-run", "--nodes", "2", "train.py")
    assert (done.code, '"nodes": 2' in done.stdout, deployed.executions()) == (0, True, [])


BAD = {
    "no number of nodes": (
        ["train.py"],
        "--nodes: missing; give the number of nodes before SCRIPT",
    ),
    "nodes after the script": (["train.py", "--nodes", "4"], "--nodes: missing"),
    "no node": (["--nodes", "0", "train.py"], "--nodes: 0 is not a whole number from 1 to 32"),
    "too many nodes": (["--nodes", "33", "train.py"], "--nodes: 33 is not a whole number from 1"),
    "more at least than at most": (
        ["--nodes", "2", "--min-nodes", "3", "train.py"],
        "--min-nodes: 3 is more than nodes (2); lower it, or raise nodes",
    ),
    "a spare of one node": (["--nodes", "1", "--spares", "1", "train.py"], "--spares: only for"),
    "a word for processes": (
        ["--nodes", "2", "--processes-per-node", "many", "train.py"],
        "--processes-per-node: 'many' is not a whole number from 1 to 64, or auto",
    ),
    "two scripts": (
        ["--nodes", "2", "--script", "train.py", "--command", "torchrun"],
        "--script: mutually exclusive with --command",
    ),
    "two markets": (
        ["--nodes", "2", "--spot", "--market", "on-demand", "train.py"],
        "--spot: contradicts --market on-demand",
    ),
    "an existing instance": (
        ["--nodes", "2", "i-0123456789abcdef0", "train.py"],
        "INSTANCE: not allowed with several nodes",
    ),
    "no script": (["--nodes", "2"], "SCRIPT: missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_is_started(case, project, deployed, runctl):
    words, message = BAD[case]
    done = runctl(*START, *words)
    assert (done.code, deployed.executions(), deployed.objects()) == (2, [], [])
    assert message in " ".join(done.stderr.split())


def test_only_training_has_several_nodes(project, deployed, runctl):
    done = runctl("aws", "process", "--nodes", "2", "train.py")
    assert (done.code, "--nodes" in done.stderr) == (2, True)


def test_a_sweep_refuses_nodes_of_the_settings(project, deployed, runctl):
    (project / ".runctl.toml").write_text("nodes = 4\n")
    done = runctl(
        "aws", "hyperparameter-tune", "--script", "train.py", "--hyperparameters", "a:1,2"
    )
    assert done.code == 2
    assert "nodes: not allowed in a sweep: each of its trials has one node" in done.stderr
