"""Every error has its exit code and stream, and is one document with --json."""

import json
import os
import subprocess
import sys

import pytest

from runctl import __version__
from runctl.cli.exit_codes import exit_code_for, exit_code_of
from runctl.cli.main import app
from runctl.model import errors
from runctl.model.outcome import FINAL, RunStatus

PROGRAM = [sys.executable, "-m", "runctl.cli.main"]


def every_error(base=errors.RunctlError):
    for error in base.__subclasses__():
        if error.__module__ == errors.__name__:
            yield error
            yield from every_error(error)


EXPECTED = {
    errors.RequestError: 2,
    errors.RunEndedError: 2,
    errors.NotFoundError: 4,
    errors.RefusedError: 3,
    errors.TransientError: 3,
    errors.UnexpectedAwsError: 3,
}


@pytest.mark.parametrize("error", [*every_error()], ids=lambda error: error.__name__)
def test_every_error_of_the_tree_has_its_exit_code(error):
    expected = next((code for base, code in EXPECTED.items() if issubclass(error, base)), 1)
    made = error(()) if error is errors.InvalidRequestError else error("x")
    assert exit_code_of(made) == expected


def test_a_defect_exits_1():
    assert exit_code_of(KeyError("x")) == 1


@pytest.mark.parametrize("status", sorted(FINAL))
def test_only_a_completed_run_is_done(status):
    assert exit_code_for(status) == (0 if status is RunStatus.COMPLETED else 1)


def test_a_run_that_aws_refused_to_launch_exits_3():
    assert exit_code_for(RunStatus.FAILED, was_refused=True) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list", "--bogus"], "No such option: --bogus"),
        (["--bogus", "list"], "No such option: --bogus"),
        (["lst"], "Did you mean 'list'"),
        (["status"], "Missing argument"),
        (["list", "--limit", "many"], "--limit"),
        (["list", "--limit", "0"], "--limit"),
        (["aws", "train", "--max-attempts", "x", "train.py"], "--max-attempts"),
    ],
)
def test_invalid_usage_exits_2_and_names_the_help(runctl, words, expected):
    done = runctl(*words)
    assert done.code == 2
    assert expected in done.stderr
    assert "--help`" in done.stderr
    assert done.stdout == ""
    document = runctl("--json", *words)
    assert document.code == 2
    assert expected in document.document["error"]["message"]


def test_help_exits_0_and_a_missing_command_exits_2(runctl):
    assert runctl("--help").code == 0
    assert runctl("-h").code == 0
    assert "aws" in runctl("--help").stdout
    assert runctl().code == 2
    assert runctl("--version").stdout.startswith("runctl ")


@pytest.mark.parametrize(
    "words", [["--json", "--version"], ["--version", "--json"], ["--json", "--version", "list"]]
)
def test_version_is_a_document_with_json(runctl, words):
    assert runctl(*words).document == {"version": __version__}


@pytest.mark.parametrize(
    "words", [["--json", "--help"], ["list", "-h", "--json"], ["--json", "aws", "train", "--help"]]
)
def test_help_is_a_document_with_json(runctl, words):
    done = runctl(*words)
    assert done.code == 0
    assert list(done.document) == ["help"]
    assert "Usage" in done.document["help"]


@pytest.mark.parametrize("words", [["--json"], ["--json", "aws"], ["--json", "checkpoints"]])
def test_a_missing_command_is_an_error_document_with_json(runctl, words):
    done = runctl(*words)
    assert (done.code, done.document["error"]["type"]) == (2, "RequestError")


def test_json_after_the_script_belongs_to_it(project, deployed, runctl):
    done = runctl("aws", "train", "--detach", "--name", "x", "train.py", "--json", "--help")
    assert (done.code, done.stdout) == (0, "x has started; see `runctl status x`\n")


def test_no_credentials_exit_3_with_the_remedy(runctl):
    done = runctl("list", env={"AWS_REGION": "us-east-1"})
    assert done.code == 3
    assert "aws configure" in done.stderr


def test_no_region_and_an_unknown_profile_exit_3_with_the_remedy(runctl):
    assert "--region" in runctl("list").stderr
    done = runctl("--profile", "nobody", "list")
    assert (done.code, "nobody" in done.stderr) == (3, True)


def test_a_cloud_that_cannot_be_reached_exits_3(runctl, monkeypatch):
    monkeypatch.setattr("runctl.aws.clients.CONNECT_TIMEOUT", 1)
    env = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    done = runctl("list", env=env)
    assert (done.code, "cannot be reached" in done.stderr) == (3, True)


def test_no_deployment_exits_4_with_the_remedy(deployed, runctl):
    deployed.clients.get("ssm").delete_parameter(Name="/runctl/deployment")
    done = runctl("list")
    assert (done.code, "cdk deploy" in done.stderr) == (4, True)


@pytest.mark.parametrize("words", [["--local", "list"], ["list", "--local"], ["local", "status"]])
def test_no_local_cloud_exits_4_with_the_remedy(runctl, words):
    done = runctl(*words)
    assert (done.code, "runctl local up" in done.stderr) == (4, True)


def test_the_environment_can_select_the_local_cloud(runctl):
    assert runctl("list", env={"RUNCTL_LOCAL": "1"}).code == 4
    assert runctl("list", env={"RUNCTL_LOCAL": "0", "AWS_REGION": "us-east-1"}).code == 3


def test_an_unexpected_error_is_short_and_says_how_to_see_more(runctl, monkeypatch):
    def explode(*_: object) -> None:
        raise ZeroDivisionError("what a surprise")

    monkeypatch.setattr("runctl.cli.invocation.Invocation.connect", explode)
    done = runctl("list")
    assert (done.code, "Traceback" in done.stderr) == (1, False)
    assert "what a surprise" in done.stderr
    assert "-v" in done.stderr
    assert "Traceback" in runctl("list", "-v").stderr
    assert runctl("list", "--json").document["error"]["type"] == "ZeroDivisionError"


def test_json_errors_name_every_problem(project, runctl):
    done = runctl("aws", "train", "--json", "--market", "x", "--instance-types", "g5", "train.py")
    error = done.document["error"]
    assert (done.code, error["type"]) == (2, "InvalidRequestError")
    assert [problem["field"] for problem in error["problems"]] == ["--instance-types", "--market"]


def test_a_closed_pipe_is_not_an_error(deployed):
    for number in range(40):
        deployed.begin(f"run-{number}")
    process = subprocess.Popen(
        [*PROGRAM, "list", "--limit", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **deployed.environment()},
    )
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(30), stderr) == (0, "")


def test_init_writes_a_file_once_unless_forced(environment, runctl):
    assert runctl("init").code == 0
    assert "market" in (environment / ".runctl.toml").read_text()
    (environment / ".runctl.toml").write_text("mine = 1")
    refused = runctl("init")
    assert (refused.code, "--force" in refused.stderr) == (2, True)
    assert (environment / ".runctl.toml").read_text() == "mine = 1"
    forced = runctl("init", "--force", "--json")
    assert json.loads(forced.stdout) == {"written": str(environment / ".runctl.toml")}


def test_every_command_takes_the_global_options(runctl):
    root = [("list",), ("status",), ("logs",), ("stop",), ("resume",), ("init",)]
    nested = [
        ("aws", "train"),
        ("checkpoints", "pull"),
        *(("local", name) for name in ("up", "down", "status")),
    ]
    for words in [*root, *nested]:
        shown = runctl(*words, "--help", env={"COLUMNS": "120"}).stdout
        assert all(option in shown for option in ("--json", "--local", "--profile", "--region"))
    assert app.info.no_args_is_help
