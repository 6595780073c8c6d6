"""A key in plain text is refused with the remedy, and is shown nowhere."""

import json

import pytest

from runctl.model.request import RunRequest
from runctl.model.run import Run
from tests.cli.commands.test_aws_train import request_of
from tests.cli.deployed import now

KEY = "abc123secret"
TRAIN = ("aws", "train", "--name", "s")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--env", f"WANDB_API_KEY={KEY}", "train.py"],
            ["--env WANDB_API_KEY: the value looks like", "WANDB_API_KEY=secret:NAME"],
        ),
        (["train.py", "--api-key", KEY], ["args[1]: the value looks", "process list"]),
        (["train.py", f"--api-key={KEY}"], ["args[0]: the value looks", "process list"]),
        (["--resume-args", f"--api-key {KEY}", "train.py"], ["--resume-args: the value looks"]),
        (["--resume-args", f"--api-key {KEY} '", "train.py"], ["close the quotation"]),
        (["--command", "train", "--api-key", KEY], ["command[2]: the value looks"]),
        (
            ["--command", "sh", "-c", f"WANDB_API_KEY={KEY} ./train"],
            ["command[2]: the value looks"],
        ),
        (["--env", f"--password={KEY}", "--env", f"--password {KEY}", "train.py"], ["no '='"]),
        (["--env", "WANDB_API_KEY=secret:", "train.py"], ["--env: WANDB_API_KEY", "secret:NAME"]),
    ],
)
def test_plain_text_key_is_refused_before_anything_starts(
    project, deployed, runctl, words, expected
):
    for flags in ([], ["--dry-run"], ["--json"]):
        done = runctl(*TRAIN, *flags, *words)
        shown = " ".join((done.stdout + done.stderr).split())
        assert done.code == 2
        assert [text for text in expected if text not in shown] == []
        assert KEY not in shown
    assert (deployed.executions(), deployed.objects()) == ([], [])


def test_key_in_the_settings_is_refused_with_the_file(project, deployed, runctl):
    (project / ".runctl.toml").write_text(f'[env]\nWANDB_API_KEY = "{KEY}"\n')
    done = runctl(*TRAIN, "train.py")
    assert done.code == 2
    assert ".runctl.toml: env.WANDB_API_KEY: the value looks like" in done.stderr
    assert KEY not in done.stderr


def test_references_and_declared_exceptions_are_passed_unchanged(project, deployed, runctl):
    done = runctl(
        *TRAIN, "--detach", "--env", "WANDB_API_KEY=secret:team/keys#wandb",
        "--env", "HF_TOKEN=ssm:/team/hf", "--env", "SERVICE_TOKEN=0123456789abcdef0123",
        "--not-secret", "SERVICE_TOKEN", "--not-secret=--api-key",
        "train.py", "--api-key", "public-demo-key",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    request = request_of(deployed, "s")
    assert request["env"]["WANDB_API_KEY"] == "secret:team/keys#wandb"
    assert request["env"]["HF_TOKEN"] == "ssm:/team/hf"
    assert request["not_secrets"] == ["SERVICE_TOKEN", "--api-key"]
    assert request["args"] == ["--api-key", "public-demo-key"]


def test_dry_run_shows_references_and_declared_exceptions(project, deployed, runctl):
    done = runctl(*TRAIN, "--dry-run", "--json", "--env", "A_TOKEN=secret:x", "train.py")
    assert done.document["request"]["env"] == {"A_TOKEN": "secret:x"}


@pytest.mark.parametrize("command", ["status", "list"])
def test_keys_of_a_run_of_an_older_version_are_masked(deployed, runctl, command):
    request = RunRequest.of(
        script="train.py",
        args=("--api-key", "sk-123", "--epochs", "3"),
        env={"WANDB_API_KEY": KEY, "HF_TOKEN": "ssm:/hf", "A": "1"},
    )
    arn = deployed.workflow.execution_arn("s")
    run = Run(run_id="s", request=request, started_at=now(), execution="s", execution_arn=arn)
    deployed.ledger.create_run(run)
    words = [command] if command == "list" else [command, "s"]
    shown = [runctl(*words, *flags).stdout for flags in ([], ["--json"])]
    assert all("s" in text and KEY not in text and "sk-123" not in text for text in shown)
    if command == "status":
        assert "train.py --api-key '***' --epochs 3" in shown[0]
        request = json.loads(shown[1])["request"]
        assert request["env"] == {"WANDB_API_KEY": "***", "HF_TOKEN": "ssm:/hf", "A": "1"}
        assert request["args"] == ["--api-key", "***", "--epochs", "3"]
