"""`runctl stop` and others with the name of a job on several instances."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from runctl.aws.deployment import read_deployment
from runctl.aws.services import AwsServices
from runctl.model.group import Group
from runctl.model.outcome import RunStatus

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


@pytest.mark.parametrize("command", ["logs", "resume", "checkpoints"])
def test_what_only_runs_have_is_refused_for_a_job(runctl, execution_arn, command):
    done = runctl(command, "clean")
    assert done.code == 4
    assert "clean is a job of several runs; `runctl status clean` shows their names" in done.stderr
