"""Data that is missing or in the way is reported before anything is packed or started."""

import pytest

from runctl.aws.inputs import InputStore
from runctl.aws.processing_jobs import ProcessingJobs
from runctl.model.errors import ForbiddenDataError
from tests.cli.commands.test_aws_train import request_of
from tests.cli.deployed import BUCKET

DATA = "s3://data/raw/"
EVALUATE = ("evaluate", "train.py", "--checkpoint", "run:lm")
TUNE = ("hyperparameter-tune", "--script", "train.py", "--hyperparameters", "lr:1,2")


@pytest.fixture
def data(deployed):
    """A bucket with some data, and a run with a checkpoint of step 5."""
    client = deployed.clients.get("s3")
    client.create_bucket(Bucket="data")
    for key in ("raw/a.csv", "marked/x/", "results/old.csv"):
        body = b"" if key.endswith("/") else b"data"
        client.put_object(Bucket="data", Key=key, Body=body)
    deployed.begin("lm")
    deployed.train("lm", 1)
    deployed.commit("lm", 1, 5)
    deployed.begin("young")
    return client


def process(source=DATA, target="s3://data/clean/"):
    return ("process", "train.py", "--input-s3", source, "--output-s3", target)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (process("s3://data/none/"), "--input-s3: there are no objects below s3://data/none/"),
        (process("s3://data/marked/"), "--input-s3: there are no objects below s3://data/marked/"),
        (process("s3://data/b.csv"), "--input-s3: s3://data/b.csv does not exist; upload it"),
        (process("s3://nowhere/a/"), "--input-s3: there is no bucket nowhere; check the name"),
        (process(f"s3://{BUCKET}/trainer-logs/"), f"copy it below s3://{BUCKET}/inputs/"),
        (
            process(target="s3://data/results/"),
            "--output-s3: s3://data/results/ holds data already",
        ),
        (process(target="s3://nowhere/a/"), "--output-s3: there is no bucket nowhere"),
        (process(target=f"s3://{BUCKET}/runs/x/"), "--output-s3: runs do not write to"),
        ((*process("s3://data/none/"), "--instances", "2"), "--input-s3: there are no objects"),
        (
            ("serve", "--script", "train.py", "--checkpoint", "s3://data/best.pt"),
            "--checkpoint: s3://data/best.pt does not exist",
        ),
        (
            ("evaluate", "train.py", "--checkpoint", "s3://data/best.pt"),
            "--checkpoint: s3://data/best.pt does not exist",
        ),
        (
            ("evaluate", "train.py", "--checkpoint", "run:lm", "--test-data", "s3://data/no/"),
            "--test-data: there are no objects below s3://data/no/",
        ),
        (
            (*EVALUATE, "--output", f"s3://{BUCKET}/runs/x/"),
            f"--output: runs do not write to s3://{BUCKET}/runs/x/",
        ),
        ((*EVALUATE, "--output", "s3://nowhere/x/"), "--output: there is no bucket nowhere"),
        (
            ("evaluate", "train.py", "--checkpoint", "run:gone"),
            "--checkpoint: there is no run gone",
        ),
        (
            ("evaluate", "train.py", "--checkpoint", "run:lm@9"),
            "--checkpoint: lm has no checkpoint of step 9; it has step 5",
        ),
        (
            ("evaluate", "train.py", "--checkpoint", "run:young"),
            "--checkpoint: the run young has no checkpoint yet; wait for the first one",
        ),
        (
            ("train", "--input", "words=s3://data/none/", "train.py"),
            "inputs.words: there are no objects below s3://data/none/",
        ),
        ((*TUNE, "--input", "words=s3://data/none/"), "inputs.words: there are no objects"),
    ],
)
def test_bad_data_is_reported_first(project, deployed, data, runctl, words, message):
    executions = deployed.executions()
    done = runctl("aws", words[0], "--detach", *words[1:])
    assert (done.code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert "packed" not in done.stderr
    assert deployed.executions() == executions
    assert not [key for key in deployed.objects() if key.startswith("code/")]


def test_all_problems_are_reported_at_once(project, deployed, data, runctl):
    words = process("s3://data/none/", "s3://data/results/")
    done = runctl("aws", "process", "--detach", *words[1:])
    assert "--input-s3: " in done.stderr
    assert "--output-s3: " in done.stderr


def test_data_that_the_user_may_not_see_is_left_to_the_deployment(
    project, deployed, data, runctl, monkeypatch
):
    # The server of these tests lets everybody list a bucket.
    def refuse(*_):
        raise ForbiddenDataError("s3://data/ may not be read")

    monkeypatch.setattr(InputStore, "list_objects", refuse)
    monkeypatch.setattr(ProcessingJobs, "problem_with_output", refuse)
    words = process("s3://data/none/", "s3://data/results/")
    done = runctl("aws", "process", "--detach", "--name", "x", *words[1:])
    assert done.code == 0, done.stderr
    assert request_of(deployed, "x")["process"]["input"] == "s3://data/none/"
