"""`runctl stop` and others with the name of a job on several instances."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl.aws.deployment import read_deployment
from runctl.aws.services import AwsServices
from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from runctl.model.shard import PlanHeader

REQUEST = {
    "kind": "process",
    "script": "clean.py",
    "process": {"input": "s3://data/raw/", "output": "s3://data/clean/", "instances": 2},
}


@pytest.fixture
def services(deployed):
    return AwsServices(
        deployed.clients, read_deployment(deployed.clients.get("ssm"), name="runctl")
    )


@pytest.fixture
def execution_arn(deployed, services):
    """The execution of a job that runs."""
    get = deployed.clients.get("stepfunctions")
    definition = {
        "StartAt": "Wait",
        "States": {"Wait": {"Type": "Wait", "Seconds": 1, "End": True}},
    }
    machine = get.create_state_machine(
        name="runctl-process",
        definition=json.dumps(definition),
        roleArn="arn:aws:iam::123456789012:role/process",
    )
    arn = get.start_execution(stateMachineArn=machine["stateMachineArn"], name="clean")
    services.groups.create_group(
        Group(
            group_id="clean",
            kind="process",
            execution="clean",
            execution_arn=arn["executionArn"],
            started_at=datetime.now(timezone.utc) - timedelta(minutes=5),
            request=REQUEST,
        )
    )
    return arn["executionArn"]


def status_of(deployed, execution_arn: str) -> str:
    get = deployed.clients.get("stepfunctions")
    return get.describe_execution(executionArn=execution_arn)["status"]


def test_a_job_is_stopped_by_its_execution(deployed, runctl, execution_arn):
    done = runctl("--json", "stop", "clean", "--no-wait")
    assert done.code == 0, done.stderr
    assert (done.document["job"], done.document["output"]) == ("clean", "s3://data/clean/")
    assert "stopping clean" in done.stderr
    assert status_of(deployed, execution_arn) == "ABORTED"


def test_a_job_that_has_ended_is_not_stopped_again(deployed, runctl, services, execution_arn):
    now = datetime.now(timezone.utc)
    services.groups.end_group("clean", status=RunStatus.FAILED, reason="shard 3 failed", now=now)
    done = runctl("stop", "clean")
    assert (done.code, "clean has already ended (failed)" in done.stderr) == (0, True)
    assert "shard 3 failed" in done.stdout
    assert status_of(deployed, execution_arn) == "RUNNING"


def test_a_job_that_runs_is_not_resumed(runctl, execution_arn):
    done = runctl("resume", "clean", "--fresh-environment")
    assert done.code == 2
    assert "RUN: clean has not ended; see `runctl status clean`" in done.stderr
    assert "--fresh-environment: not for a job of several runs; remove it" in done.stderr


def test_a_job_that_has_ended_is_resumed_in_its_next_execution(
    deployed, runctl, services, execution_arn
):
    found = deployed.clients.get("ssm").get_parameter(Name="/runctl/deployment")
    held = json.loads(found["Parameter"]["Value"])
    now = datetime.now(timezone.utc)
    services.groups.end_group("clean", status=RunStatus.FAILED, reason="shard 3 failed", now=now)
    done = runctl("resume", "clean", "--detach")
    assert (done.code, "too old for several instances" in done.stderr) == (4, True)
    machine = execution_arn.replace(":execution:", ":stateMachine:").rpartition(":")[0]
    deployed.put_parameter(**held, process_machine_arn=machine)
    done = runctl("--json", "resume", "clean", "--detach")
    assert done.code == 0, done.stderr
    assert (done.document["job"], done.document["execution"]) == ("clean", "clean-r2")
    found = deployed.clients.get("stepfunctions").describe_execution(
        executionArn=done.document["execution_arn"]
    )
    assert json.loads(found["input"]) == {"group_id": "clean"}


PROCESS = ("aws", "process", "train.py", "--input-s3", "s3://data/raw/", "--instances", "2")


def test_the_name_of_an_earlier_job_is_refused_with_the_command_that_continues_it(
    deployed, runctl, project, execution_arn
):
    deployed.put_data("s3://data/raw/")
    found = deployed.clients.get("ssm").get_parameter(Name="/runctl/deployment")
    held = json.loads(found["Parameter"]["Value"])
    deployed.put_parameter(**held, process_machine_arn="arn:process")
    done = runctl(*PROCESS, "--output-s3", "s3://data/clean/", "--name", "clean")
    assert done.code == 2
    assert "'clean' is the name of an earlier job of several runs" in done.stderr
    assert "continue it with `runctl resume clean`" in done.stderr
    tune = ("hyperparameter-tune", "--script", "train.py", "--hyperparameters", "lr:1,2")
    done = runctl("aws", *tune, "--name", "clean")
    assert (done.code, "continue it with `runctl resume clean`" in done.stderr) == (2, True)


def test_a_job_is_not_mistaken_for_a_sweep(deployed, runctl, execution_arn):
    done = runctl("sweep", "status", "clean")
    assert done.code == 4
    assert "clean is a job of several runs, not a sweep; see `runctl status clean`" in done.stderr


@pytest.fixture
def job(deployed, services):
    """A job whose first and last runs have begun."""
    now = datetime.now(timezone.utc)
    services.groups.create_group(
        Group(
            group_id="clean",
            kind="process",
            execution="clean",
            execution_arn="arn:clean",
            started_at=now,
            request=REQUEST,
        )
    )
    header = PlanHeader(
        run_id="clean", started_at=now, input="s3://data/raw/", output="s3://data/clean/",
        shards=3, files=3, size_bytes=3, largest_bytes=1,
    )  # fmt: skip
    services.processing_jobs.put_plan(header, [])
    for run_id, words in {"clean-0001": "one", "clean-0003": "three"}.items():
        deployed.begin(run_id)
        deployed.train(run_id, 1)
        deployed.say(run_id, 1, words)
    deployed.say("clean-0003", 1, "agent three", suffix="-agent")
    return deployed


def test_the_page_of_a_job_has_the_machine_time_of_its_runs(job, runctl):
    document = runctl("status", "clean", "--json").document
    assert (list(document["machine_seconds"]), document["waiting_seconds"]) == (["spot"], {})
    assert "machine time" in runctl("status", "clean").stdout


def test_the_logs_of_a_job_are_those_of_its_runs(job, runctl):
    done = runctl("logs", "clean")
    assert (done.code, done.stdout) == (0, "one\nthree\n")
    assert done.stderr.split("\n")[:2] == ["── clean-0001 attempt 1", "── clean-0003 attempt 1"]
    lines = runctl("logs", "clean", "--json").document["lines"]
    assert [(line["run_id"], line["text"]) for line in lines] == [
        ("clean-0001", "one"),
        ("clean-0003", "three"),
    ]
    assert runctl("logs", "clean", "--agent").stdout == "agent three\n"


def test_following_the_logs_of_a_job_shows_runs_that_begin_and_ends_with_it(
    job, services, start_runctl
):
    with start_runctl("logs", "clean", "-f") as process:
        process.wait_for("── clean-0003 attempt 1")
        job.begin("clean-0002")
        job.train("clean-0002", 1)
        job.say("clean-0002", 1, "two")
        process.wait_for("── clean-0002 attempt 1")
        job.say("clean-0001", 1, "last")
        now = datetime.now(timezone.utc)
        services.groups.end_group("clean", status=RunStatus.COMPLETED, reason="", now=now)
        done = process.finish()
    assert (done.code, done.stdout) == (0, "one\nthree\ntwo\nlast\n")


def test_attempts_and_ranks_are_those_of_one_run(job, runctl):
    done = runctl("logs", "clean", "--attempt", "1", "--rank", "0")
    assert done.code == 2
    for option in ("--attempt", "--rank"):
        assert f"{option}: not for a job of several runs" in done.stderr


def test_what_only_runs_have_is_refused_for_a_job(runctl, execution_arn):
    done = runctl("checkpoints", "clean")
    assert done.code == 4
    assert "clean is a job of several runs; `runctl status clean` shows their names" in done.stderr
