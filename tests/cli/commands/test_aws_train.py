"""`runctl aws train`: check, pack, upload, start and follow; an invalid request starts nothing."""

import json
import re
import tarfile
import time
from datetime import timedelta
from threading import Thread

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.cli.deployed import BUCKET


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.05)
    monkeypatch.setattr("runctl.report.follower.LAST_LINES", timedelta(0))


def request_of(deployed, name):
    arn = deployed.workflow.execution_arn(name)
    described = deployed.clients.get("stepfunctions").describe_execution(executionArn=arn)
    return json.loads(described["input"])


def test_a_run_is_packed_uploaded_and_started(project, deployed, runctl, tmp_path):
    done = runctl(
        "aws", "train", "--detach", "--json", "--name", "my-run",
        "--instance-types", "g5.xlarge,m5.large", "--market", "spot", "--env", "A=1",
        "--keep-last", "5", "train.py", "--epochs", "3", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert done.document["run_id"] == "my-run"
    assert deployed.executions() == ["my-run"]
    (key,) = deployed.objects()
    assert request_of(deployed, "my-run") == {
        "script": "train.py",
        "code": f"s3://{BUCKET}/{key}",
        "args": ["--epochs", "3", "--json"],
        "instance_types": ["g5.xlarge", "m5.large"],
        "market": "spot",
        "env": {"A": "1"},
        "checkpoint": {"keep_last": 5},
    }
    deployed.clients.get("s3").download_file(BUCKET, key, str(tmp_path / "got.tar.gz"))
    with tarfile.open(tmp_path / "got.tar.gz") as archive:
        assert "train.py" in archive.getnames()


def test_arguments_after_the_script_are_passed_to_it(project, deployed, runctl):
    done = runctl(
        "aws", "train", "--detach", "--name", "x", "train.py", "--name", "y", "--help", "-v"
    )
    assert (done.code, deployed.executions()) == (0, ["x"])
    assert request_of(deployed, "x")["args"] == ["--name", "y", "--help", "-v"]


EVALUATION = {"checkpoint": "run:lm@100", "test_data": "s3://data/test/"}
PATHS = [
    "--checkpoint",
    "$RUNCTL_INPUT_DIR/checkpoint",
    "--test-data",
    "$RUNCTL_INPUT_DIR/test-data",
]
OPTIONS = ("--checkpoint", "run:lm@100", "--test-data", "s3://data/test/")


@pytest.fixture
def trained(deployed):
    """The run and the data that are evaluated."""
    deployed.put_data("s3://data/test/")
    deployed.begin("lm")
    deployed.train("lm", 1)
    deployed.commit("lm", 1, 100)


def test_an_evaluation_may_be_started_like_a_training(project, deployed, trained, runctl):
    done = runctl("aws", "train", "--detach", "--name", "x", "train.py", "-v", *OPTIONS)
    request = request_of(deployed, "x")
    assert (request["kind"], request["evaluate"]) == ("evaluate", EVALUATION)
    assert request["args"] == ["-v", *PATHS]
    assert "this is an evaluation: runctl reads --checkpoint and --test-data" in done.stderr


def test_the_options_of_an_evaluation_precede_or_follow_the_script(
    project, deployed, trained, runctl
):
    first = runctl("aws", "evaluate", "--detach", "--name", "x", *OPTIONS, "train.py", "-v")
    assert first.code == 0, first.stderr
    runctl("aws", "evaluate", "--detach", "--name", "y", "train.py", *OPTIONS, "-v")
    for name, args in (("x", ["-v", *PATHS]), ("y", [*PATHS, "-v"])):
        request = request_of(deployed, name)
        assert (request["kind"], request["evaluate"]) == ("evaluate", EVALUATION)
        assert request["args"] == args


def test_an_option_of_an_evaluation_is_given_once(project, deployed, runctl):
    done = runctl("aws", "evaluate", *OPTIONS, "train.py", "--checkpoint", "run:lm")
    assert done.code == 2
    assert "--checkpoint: given before the script and after it" in done.stderr
    assert deployed.executions() == []


def test_an_option_of_an_evaluation_is_given_once_after_the_script(project, deployed, runctl):
    words = ("--checkpoint", "run:lm", "--checkpoint=run:lm@100")
    done = runctl("aws", "evaluate", "train.py", *words)
    assert done.code == 2
    assert "--checkpoint: given twice; give it once" in done.stderr
    assert deployed.executions() == []


def test_data_of_the_project_is_for_the_script_of_an_evaluation(project, deployed, trained, runctl):
    words = ("--test-data", "data/test", "--checkpoint", "run:lm@100", "--output=out")
    done = runctl("aws", "evaluate", "--detach", "--name", "x", "train.py", *words)
    assert done.code == 0, done.stderr
    request = request_of(deployed, "x")
    assert request["evaluate"] == {"checkpoint": "run:lm@100"}
    expected = ["--test-data", "data/test", *PATHS[:2], "--output=out"]
    assert request["args"] == expected


def test_an_output_that_is_no_prefix_leaves_the_data_to_the_script_and_says_so(
    project, deployed, runctl
):
    words = ("--input-s3", "s3://data/raw/", "--output-s3", "s3://data/clean")
    done = runctl("aws", "train", "--detach", "--name", "x", "train.py", *words)
    assert request_of(deployed, "x")["args"] == list(words)
    printed = " ".join(done.stderr.split())
    assert "'s3://data/clean' of --output-s3 is not a prefix of S3, which ends with /" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "train.py"), "--checkpoint: missing; give s3://bucket/checkpoints/best.pt"),
        (
            ("evaluate", "train.py", "--checkpoint", "./best.pt"),
            "--checkpoint: './best.pt' is not a checkpoint; write s3://",
        ),
        (
            ("process", "train.py", "--output-s3", "s3://data/x/"),
            "--input-s3: missing; name the objects to process",
        ),
    ],
)
def test_what_a_kind_of_run_needs_is_named_by_its_option(project, deployed, runctl, words, message):
    done = runctl("aws", *words)
    assert (done.code, deployed.executions()) == (2, [])
    assert message in done.stderr


def test_every_checkpoint_of_a_run_is_evaluated_by_a_switch(project, deployed, trained, runctl):
    words = ("--checkpoint", "run:lm", "--every-checkpoint")
    runctl("aws", "evaluate", "--detach", "--name", "x", "train.py", *words)
    request = request_of(deployed, "x")
    assert request["evaluate"] == {"checkpoint": "run:lm", "every_checkpoint": True}
    assert request["args"] == ["--checkpoint", "$RUNCTL_INPUT_DIR/checkpoint"]
    assert all(name.endswith(".large") for name in request["instance_types"])
    runctl("aws", "evaluate", "--detach", "--name", "y", "--instance-types", "g5.xlarge",
           "train.py", *words)  # fmt: skip
    assert request_of(deployed, "y")["instance_types"] == ["g5.xlarge"]


def test_the_same_project_is_uploaded_once(project, deployed, runctl):
    assert "uploaded" in runctl("aws", "train", "--detach", "train.py").stderr
    assert "already uploaded" in runctl("aws", "train", "--detach", "train.py").stderr
    assert len(deployed.objects()) == 1
    assert len(deployed.executions()) == 2


def test_a_run_without_a_name_gets_a_readable_one(project, deployed, runctl):
    done = runctl("aws", "train", "--detach", "--json", "train.py")
    assert re.fullmatch(r"train-\d{8}-\d{6}-[0-9a-f]{4}", done.document["run_id"])


def test_a_dry_run_shows_the_exact_request_and_starts_nothing(project, deployed, runctl):
    (project / "data.bin").write_bytes(b"x" * 1000)
    done = runctl("aws", "train", "--dry-run", "--json", "--name", "dry", "train.py", "--lr", "1")
    document = done.document
    assert done.code == 0
    assert document["request"]["args"] == ["--lr", "1"]
    assert document["request"]["code"].endswith(f"{document['package']['sha256']}.tar.gz")
    assert {"path": "data.bin", "size_bytes": 1000} in document["package"]["files"]
    assert (deployed.executions(), deployed.objects()) == ([], [])
    runctl("aws", "train", "--detach", "--name", "dry", "train.py", "--lr", "1")
    assert request_of(deployed, "dry") == document["request"]


def test_a_dry_run_says_that_no_session_could_be_limited_to_a_request(project, deployed, runctl):
    place = f"s3://{BUCKET}/runs/{'r' * 50}"
    uris = [f"{place}{number}/outputs/x" for number in range(20)]
    deployed.put_data(*uris)
    words = [f"--input=i{number}={uri}" for number, uri in enumerate(uris)]
    done = runctl("aws", "train", "--dry-run", *words, "train.py")
    assert (done.code, deployed.executions()) == (2, [])
    assert "inputs: the session of the run cannot name 21 objects of other runs" in done.stderr


def test_settings_are_defaults(project, deployed, runctl):
    (project / ".runctl.toml").write_text('market = "on-demand"\nmax_attempts = 2\n')
    runctl("aws", "train", "--detach", "--name", "x", "--max-attempts", "9", "train.py")
    request = request_of(deployed, "x")
    assert (request["market"], request["max_attempts"]) == ("on-demand", 9)


def test_the_project_is_packed_from_its_top_in_any_folder_of_it(
    project, deployed, runctl, monkeypatch
):
    (project / "src").mkdir()
    (project / "src/inner.py").write_text("")
    monkeypatch.chdir(project / "src")
    runctl("aws", "train", "--detach", "--name", "x", "inner.py")
    assert request_of(deployed, "x")["script"] == "src/inner.py"


def test_another_folder_can_be_the_project(project, deployed, runctl, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/go.py").write_text("")
    done = runctl("aws", "train", "--detach", "--name", "x", "--project", "../other", "go.py")
    assert (done.code, request_of(deployed, "x")["script"]) == (0, "go.py")


def test_a_script_in_s3_needs_no_project(project, deployed, runctl):
    deployed.clients.get("s3").put_object(Bucket=BUCKET, Key="one.py", Body=b"print()")
    uri = f"s3://{BUCKET}/one.py"
    assert runctl("aws", "train", "--detach", "--name", "x", uri).code == 0
    assert request_of(deployed, "x") == {"script": uri}
    missing = runctl("aws", "train", "--detach", "--name", "y", f"s3://{BUCKET}/two.py")
    assert (missing.code, "does not exist" in missing.stderr) == (2, True)
    assert deployed.executions() == ["x"]


BAD = {
    "no such script": (["tain.py"], "did you mean train.py"),
    "a name with a space": (["--name", "my run", "train.py"], "--name: 'my run'"),
    "a name that climbs": (["--name", "../x", "train.py"], "--name: '../x'"),
    "a market": (["--market", "cheap", "train.py"], "--market: 'cheap' is not a valid market"),
    "an environment": (["--env", "X=" + "x" * 300_000, "train.py"], "--env: 300001 bytes"),
    "a reserved variable": (["--env", "RUNCTL_RUN_ID=x", "train.py"], "set by runctl itself"),
    "an assignment": (["--env", "X", "train.py"], "--env: 'X' has no '='"),
    "a deadline": (["--deadline", "2030-01-01", "train.py"], "--deadline: '2030-01-01'"),
    "a deadline in the past": (
        ["--deadline", "2020-01-01T00:00:00Z", "train.py"],
        "--deadline: 2020-01-01T00:00:00+00:00 has passed (it is ",
    ),
    "a type": (["--instance-types", "m5.huge", "train.py"], "--instance-types: 'm5.huge' is not a"),
    "a type that EC2 lacks": (
        ["--instance-types", "m5.large,m5.3xlarge", "train.py"],
        "instance_types: The following supplied instance types do not exist: [m5.3xlarge]",
    ),
    "a variable that is overridden": (["--env", "PATH=/x", "train.py"], "--env: PATH is set by"),
    "a variable that is unknown": (["train.py", "$RUNCTL_DIR"], "args: $RUNCTL_DIR is not a"),
    "an open quotation": (["--resume-args", "'x", "train.py"], "--resume-args: "),
    "no such script of a command": (
        ["--command", "torchrun", "--nproc-per-node=2", "tain.py", "--lr", "1"],
        "command: 'tain.py' does not exist in ",
    ),
    "a program without --command": (["torchrun", "train.py"], "aws train --command torchrun"),
    "a checkpoint folder": (["--checkpoint-dir", "../x", "train.py"], "--checkpoint-dir: '../x'"),
    "a grace": (["--grace-seconds", "91", "train.py"], "--grace-seconds: 91"),
    "no such project": (["--project", "nowhere", "train.py"], "--project: "),
    "arguments that are too large": (["train.py", "x" * 40_000], "args: 40000 bytes"),
}


@pytest.mark.parametrize(("words", "expected"), BAD.values(), ids=BAD.keys())
def test_an_invalid_request_is_refused_and_nothing_is_uploaded_or_started(
    project, deployed, runctl, words, expected
):
    done = runctl("aws", "train", "--detach", *words)
    assert done.code == 2
    assert expected in done.stderr
    assert (deployed.executions(), deployed.objects()) == ([], [])


BAD_PROJECTS = {
    "a bad requirements.txt": ({"requirements.txt": "numpy=1\n"}, "requirements.txt:1: 'numpy=1'"),
    "unknown settings": ({".runctl.toml": "markt = 1\n"}, "did you mean market?"),
    "too large": (
        {".runctl.toml": "[project]\nmax_size_mb = 1\n", "big.bin": "x" * 1_100_000},
        "big.bin (1.1 MB)",
    ),
    "a notebook": ({"train.py": "", "nb.ipynb": "{}"}, "jupyter nbconvert", "nb.ipynb"),
    "a text": ({"notes.txt": "x"}, "is not a program (.txt)", "notes.txt"),
    "a script of another language": ({"fit.R": "x"}, "--command Rscript fit.R", "fit.R"),
    "an ignored script": ({".gitignore": "*.py\n"}, "left out of the package"),
}


@pytest.mark.parametrize("bad", BAD_PROJECTS.values(), ids=BAD_PROJECTS.keys())
def test_an_invalid_project_is_refused_and_nothing_is_uploaded_or_started(
    project, deployed, runctl, bad
):
    files, expected, script = (*bad, "train.py")[:3]
    for name, text in files.items():
        (project / name).write_text(text)
    done = runctl("aws", "train", "--detach", script)
    assert done.code == 2
    assert expected in done.stderr
    assert (deployed.executions(), deployed.objects()) == ([], [])


@pytest.mark.parametrize("separator", [[], ["--"]], ids=["bare", "after --"])
def test_a_command_starts_any_program_in_the_projects_folder(project, deployed, runctl, separator):
    words = ["torchrun", "--nproc-per-node", "2", "train.py", "--name", "$RUNCTL_RUN_ID"]
    done = runctl(
        "aws", "train", "--detach", "--name", "x", "--command",
        "--resume-args", "--resume '$RUNCTL_CHECKPOINT_DIR'", *separator, *words,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    request = request_of(deployed, "x")
    assert request.pop("code").startswith("s3://")
    assert request == {
        "command": words,
        "resume_args": ["--resume", "$RUNCTL_CHECKPOINT_DIR"],
    }


def test_a_run_of_a_command_is_named_by_its_program(project, deployed, runctl):
    done = runctl("aws", "train", "--detach", "--json", "--command", "/usr/bin/make", "train")
    assert done.document["run_id"].startswith("make-")


def test_a_taken_name_is_refused_before_anything_is_uploaded(project, deployed, runctl):
    deployed.begin("mine")
    done = runctl("aws", "train", "--detach", "--name", "mine", "train.py")
    assert (done.code, "runctl resume mine" in done.stderr) == (2, True)
    assert deployed.objects() == []


def test_no_credentials_start_nothing(project, runctl):
    done = runctl("aws", "train", "train.py", env={"AWS_REGION": "us-east-1"})
    assert (done.code, "credentials" in done.stderr) == (3, True)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (OutcomeKind.COMPLETED, RunStatus.COMPLETED, 0),
        (OutcomeKind.FAILED, RunStatus.FAILED, 1),
        (OutcomeKind.INTERRUPTED, RunStatus.INTERRUPTED, 1),
    ],
)
def test_a_followed_run_exits_with_the_code_of_its_end(
    project, deployed, runctl, kind, status, code
):
    deployed.begin("x")
    deployed.train("x", 1)
    deployed.say("x", 1, "a line of the trainer", "10%\r50%\r100%", "\x1b[31mred\x1b[0m")
    deployed.end_attempt("x", 1, kind, "because")
    # The run already exists, so its resumption is followed.
    deployed.end("x", status, "because")

    def continue_at_once() -> None:
        arn = deployed.workflow.execution_arn("x-r2")
        while deployed.workflow.find_execution(arn) is None:
            time.sleep(0.05)
        deployed.ledger.resume_run("x", execution="x-r2", execution_arn=arn, first_attempt=1)
        deployed.train("x", 2)
        deployed.say("x", 2, "another line", "10%\r50%\r100%", "\x1b[31mred\x1b[0m")
        deployed.end_attempt("x", 2, kind, "because")
        deployed.end("x", status, "because")

    thread = Thread(target=continue_at_once)
    thread.start()
    done = runctl("resume", "x", "--json")
    thread.join()
    assert done.code == code, done.document
    assert done.document.get("status") == status.value, (done.document, done.stderr)
    lines = done.stderr.splitlines()
    assert [line for line in lines if line in {"another line", "100%", "red"}] == [
        "another line",
        "100%",
        "red",
    ]
    # Earlier events are not announced again.
    assert "a line of the trainer" not in done.stderr
    expected = next(line for line in lines if line.startswith(f"── attempt 2 {kind.value}"))
    assert lines.index(expected) > lines.index("red")
