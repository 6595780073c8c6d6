"""Options and settings become one run request, and every problem names its origin."""

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runctl.cli.commands.aws.option_values import read_option
from runctl.cli.commands.aws.request import (
    build_request,
    check_name,
    name_run,
)
from runctl.cli.project.scan import MAX_PROJECT_BYTES
from runctl.cli.project.settings import TEMPLATE, Settings, parse_settings, read_settings
from runctl.model.errors import InvalidRequestError, SettingsError
from runctl.model.identity import RUN_ID
from runctl.model.request import FIELDS
from runctl.model.request_parsing import parse_request

CODE = "s3://bucket/code/0.tar.gz"
NOW = datetime(2026, 11, 24, 6, 45, 12, tzinfo=timezone.utc)


def settings_of(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / ".runctl.toml"
    path.write_text(text)
    return parse_settings(path)


def build(options=None, settings=None, args=()):
    return build_request(
        "train.py", args, options=options or {}, settings=settings or Settings(), code=CODE
    )


def read_codes(text):
    return read_option(FIELDS["retry"].fields["exit_codes"], text)


def test_defaults_are_not_in_the_request():
    assert build() == {"script": "train.py", "code": CODE}


def test_options_win_over_settings_and_environments_are_merged(tmp_path):
    settings = settings_of(
        tmp_path,
        'market = "on-demand"\nmax_attempts = 7\n'
        '[env]\nA = "1"\nB = "2"\n[checkpoint]\nkeep_last = 9\n',
    )
    options = {"market": "spot", "env": {"B": "3"}, "checkpoint.grace_seconds": 10}
    document = build(options, settings, ["--epochs", "3"])
    assert document == {
        "script": "train.py",
        "code": CODE,
        "args": ["--epochs", "3"],
        "market": "spot",
        "max_attempts": 7,
        "env": {"A": "1", "B": "3"},
        "checkpoint": {"keep_last": 9, "grace_seconds": 10},
    }
    assert parse_request(document).saving.checkpoint.keep_last == 9


def test_values_with_names_are_merged_with_those_of_the_settings(tmp_path):
    settings = settings_of(
        tmp_path,
        '[inputs]\na = "s3://bucket/a/"\nb = "s3://bucket/b/"\n'
        '[docker]\ndockerfile = "Dockerfile"\n[docker.build_args]\nBASE = "x"\nPYTHON = "3.11"\n'
        '[docker.build_secrets]\nnetrc = "secret:team/netrc"\n',
    )
    options = {
        "inputs": {"b": "s3://bucket/other/"},
        "docker.build_args": {"PYTHON": "3.12", "CUDA": "12"},
        "docker.build_secrets": {"npm": "secret:team/npm"},
    }
    document = build(options, settings)
    assert document["inputs"] == {"a": "s3://bucket/a/", "b": "s3://bucket/other/"}
    assert document["docker"] == {
        "dockerfile": "Dockerfile",
        "build_args": {"BASE": "x", "PYTHON": "3.12", "CUDA": "12"},
        "build_secrets": {"netrc": "secret:team/netrc", "npm": "secret:team/npm"},
    }
    assert build({}, settings)["docker"]["build_args"] == {"BASE": "x", "PYTHON": "3.11"}


def test_retry_options_win_over_settings(tmp_path):
    settings = settings_of(tmp_path, "[retry]\nexit_codes = [3]\nmax_failures = 9\n")
    document = build({"retry.exit_codes": read_codes("1, 137")}, settings)
    assert document["retry"] == {"exit_codes": [1, 137], "max_failures": 9}
    assert build({"retry.exit_codes": read_codes("any")})["retry"] == {"exit_codes": "any"}


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"retry.exit_codes": read_codes("0")}, "--retry-exit-codes", "never retried"),
        ({"retry.exit_codes": read_codes("1,300")}, "--retry-exit-codes", "from 1 to 255"),
        ({"retry.exit_codes": read_codes("1,oops")}, "--retry-exit-codes", "'oops'"),
        ({"retry.exit_codes": read_codes(",")}, "--retry-exit-codes", "must not be empty"),
        ({"retry.max_failures": 3}, "--max-failures", "exit_codes is missing"),
    ],
)
def test_an_invalid_retry_option_is_refused_by_its_name(options, field, message):
    with pytest.raises(InvalidRequestError) as caught:
        build(options)
    (problem,) = caught.value.problems
    assert (problem.field, message in problem.message) == (field, True)


def test_a_problem_names_the_option_or_setting_of_the_value():
    options = {"market": "cheap", "checkpoint.grace_seconds": 900, "instance_types": ["g5"]}
    with pytest.raises(InvalidRequestError) as caught:
        build(options)
    assert {problem.field for problem in caught.value.problems} == {
        "--market",
        "--grace-seconds",
        "--instance-types",
    }


def test_an_environment_that_is_too_large_says_how_large_it_is():
    with pytest.raises(
        InvalidRequestError, match=r"--env: 300001 bytes exceed the limit of 32768; put"
    ):
        build({"env": {"X": "x" * 300_000}})


def test_assignments_are_read_with_the_last_one_winning():
    env = FIELDS["env"]
    assert read_option(env, ["A=1", "B=x=y", "A=2", "C="]) == {"A": "2", "B": "x=y", "C": ""}
    with pytest.raises(InvalidRequestError, match="--env: 'PATH' has no '='; write NAME=VALUE"):
        read_option(env, ["PATH"])


def test_types_are_repeated_or_separated_by_commas():
    assert read_option(FIELDS["instance_types"], ["g5.xlarge, g6.xlarge", "m5.large"]) == [
        "g5.xlarge",
        "g6.xlarge",
        "m5.large",
    ]


@pytest.mark.parametrize("script", ["train_mnist.py", "a/b/ünïcode!.py", "…", "x" * 200 + ".py"])
def test_a_generated_name_is_readable_valid_and_unique(script):
    first, second = name_run(script, now=NOW), name_run(script, now=NOW)
    assert RUN_ID.fullmatch(first)
    assert first != second
    assert "20261124-064512" in first


def test_a_generated_name_begins_with_the_script():
    assert name_run("training/train_mnist.py", now=NOW).startswith("train-mnist-20261124-064512-")


@pytest.mark.parametrize(
    ("name", "cure"), [("my run", "my-run"), ("../x", "x"), ("a/b", "a-b"), ("x" * 65, "x" * 64)]
)
def test_an_invalid_name_is_refused_with_a_valid_one(name, cure):
    with pytest.raises(InvalidRequestError, match=f"--name: .*; for example {cure}$"):
        check_name(name)


# Settings.


def test_the_template_is_a_valid_file_and_so_is_all_that_it_comments_out(tmp_path):
    assert settings_of(tmp_path, TEMPLATE).request["market"] == "spot"
    lines = []
    for line in TEMPLATE.splitlines():
        bare = line.removeprefix("# ")
        is_setting = re.match(r"\[\w+\]$|\w+ = ", bare)
        lines.append(bare if is_setting else line)
    everything = settings_of(tmp_path, "\n".join(lines))
    assert everything.request["env"] == {
        "OMP_NUM_THREADS": "4",
        "WANDB_API_KEY": "secret:wandb",
    }
    assert everything.profile == "research"
    assert everything.largest_project_bytes == 256_000_000


def test_settings_are_found_upwards(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/.runctl.toml").write_text("max_attempts = 3\n")
    assert read_settings(tmp_path / "a/b").request == {"max_attempts": 3}
    assert read_settings(tmp_path).largest_project_bytes == MAX_PROJECT_BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("markt = 'spot'", "markt is unknown; did you mean market?"),
        (
            "[checkpoint]\nkeep = 3",
            "checkpoint.keep is unknown; did you mean checkpoint.keep_last?",
        ),
        ("[aws]\nregoin = 'x'", "aws.regoin is unknown; did you mean aws.region?"),
        ("script = 'x.py'", "script is unknown"),
        ("market = 'cheap'", "market: 'cheap' is not a valid market; known values: spot"),
        ("auto_resume = 'yes'", "auto_resume: 'yes' is not a boolean"),
        ("max_attempts = 0", "max_attempts: 0 is not a whole number from 1"),
        ("checkpoint = 3", "checkpoint: must be an object, not a number"),
        ("aws = 3", "aws: 3 is not a table; write \\[aws\\]"),
        ("[project]\nmax_size_mb = true", "project.max_size_mb: True is not a whole number"),
        ("market = ", "cannot be read"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_file_and_the_nearest_name(tmp_path, text, expected):
    with pytest.raises(SettingsError, match=expected) as caught:
        settings_of(tmp_path, text)
    assert str(tmp_path / ".runctl.toml") in str(caught.value)


def test_all_invalid_settings_are_in_one_message(tmp_path):
    with pytest.raises(SettingsError, match=r"markt is unknown.*max_attempts: 0 is not"):
        settings_of(tmp_path, "markt = 'spot'\nmax_attempts = 0")
