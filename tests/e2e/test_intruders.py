"""Attacks with what an instance has: its identity, the session of its run, and those of others."""

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from runctl.aws.clients import Clients, Connection
from runctl.aws.credentials_function import CredentialsFunction, Issued, Over, Refused
from runctl.aws.instance_access import credentials_function
from runctl.aws.instance_identity import InstanceRole
from runctl.model import identity
from runctl.model.node import NodeId
from tests.e2e.sleeping import start_sleeper
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e


class Intruder:
    """A program that has become root on the instance of a run."""

    def __init__(
        self, testbed: Testbed, run_id: str, monkeypatch: pytest.MonkeyPatch, **changed: str
    ) -> None:
        self.run_id = run_id
        testbed.wait_for_training(run_id, attempt=1)
        self.instance_id = testbed.attempts(run_id)[0].instance_ids[0]
        root = Path(testbed.cloud.instance(self.instance_id)["root"])
        lines = (root / "etc/runctl/agent.env").read_text().splitlines()
        self.variables = {**dict(line.split("=", 1) for line in lines), **changed}
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name in ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_ENDPOINT_URL"):
            monkeypatch.setenv(name, self.variables[name])
        self.function: CredentialsFunction = credentials_function(
            self.variables, claim=lambda: {"run_id": run_id, "attempt": 1}
        )

    def session(self, purpose: str = "agent") -> boto3.Session:
        """Return a session of boto3 with what the function issues."""
        answer = self.function.ask(purpose)
        assert isinstance(answer, Issued), answer
        assert answer.node == NodeId(self.run_id, 1, 0)
        held = answer.credentials
        return boto3.Session(
            aws_access_key_id=held.access_key,
            aws_secret_access_key=held.secret_key,
            aws_session_token=held.token,
            region_name=self.variables["RUNCTL_REGION"],
        )


@pytest.fixture
def runs(testbed: Testbed, new_name):
    """Two runs that work at the same time."""
    started = [start_sleeper(testbed, new_name()) for _ in range(2)]
    yield started
    for run_id in started:
        testbed.workflow.stop_run(testbed.execution(run_id).arn, cause="the test is over")


def refusal(call, *arguments, **named) -> str:
    """Return the code with which AWS refuses a call, empty if it does not."""
    try:
        call(*arguments, **named)
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return ""


DENIED = {"AccessDenied", "AccessDeniedException"}


def test_a_session_reaches_its_run_and_nothing_of_another(
    testbed: Testbed, runs, monkeypatch
) -> None:
    own, other = runs
    bucket, table = testbed.deployment.bucket, testbed.deployment.table
    secret = f"{identity.output_prefix(other)}secret.txt"
    testbed.clients.get("s3").put_object(Bucket=bucket, Key=secret, Body=b"not yours")
    testbed.wait_for_training(other, attempt=1)
    session = Intruder(testbed, own, monkeypatch).session()
    s3, items, logs = (session.client(name) for name in ("s3", "dynamodb", "logs"))

    def tries(run_id: str) -> dict[str, str]:
        key = {name: {"S": value} for name, value in identity.run_key(run_id).items()}
        prefix = identity.run_prefix(run_id)
        return {
            "read its item": refusal(items.get_item, TableName=table, Key=key),
            "read an output": refusal(
                s3.get_object, Bucket=bucket, Key=f"{identity.output_prefix(run_id)}secret.txt"
            ),
            "write an output": refusal(
                s3.put_object,
                Bucket=bucket,
                Key=f"{identity.output_prefix(run_id)}planted.txt",
                Body=b"",
            ),
            "write a checkpoint": refusal(
                s3.put_object, Bucket=bucket, Key=f"{prefix}checkpoints/planted", Body=b""
            ),
            "delete a checkpoint": refusal(
                s3.delete_object, Bucket=bucket, Key=f"{prefix}checkpoints/planted"
            ),
            "list it": refusal(s3.list_objects_v2, Bucket=bucket, Prefix=prefix),
            "write its log": refusal(
                logs.create_log_stream,
                logGroupName=testbed.log_group,
                logStreamName=f"{run_id}/planted",
            ),
        }

    found = tries(other)
    assert {name for name, code in found.items() if code not in DENIED} == set(), found
    mine = tries(own)
    # The object of that name does not exist in the own run.
    mine.pop("read an output")
    assert set(mine.values()) == {""}, mine
    everything = refusal(s3.list_objects_v2, Bucket=bucket, Prefix="runs/")
    assert everything in DENIED
    assert refusal(items.scan, TableName=table) in DENIED
    content = testbed.clients.get("s3").get_object(Bucket=bucket, Key=secret)["Body"].read()
    assert content == b"not yours"


def test_an_instance_is_only_who_its_role_says(testbed: Testbed, runs, monkeypatch) -> None:
    own, other = runs
    intruder = Intruder(testbed, own, monkeypatch)
    held = intruder.function.ask("agent")
    assert isinstance(held, Issued)
    # What it claims is not what it gets.
    client = intruder.function._client()
    event = {
        "identity": intruder.function.prove(),
        "purpose": "agent",
        "claimed": {"run_id": other, "attempt": 1},
    }
    answer = client.invoke(FunctionName=intruder.function.name, Payload=json.dumps(event))
    assert json.loads(answer["Payload"].read())["run_id"] == own
    # The session of a run proves no instance, and may not even ask.
    session = intruder.session().client("lambda")
    invoked = refusal(
        session.invoke, FunctionName=intruder.function.name, Payload=json.dumps(event)
    )
    assert invoked in DENIED


@pytest.mark.parametrize(
    "what", ["another deployment", "two minutes ago", "changed", "another host"]
)
def test_an_identity_that_is_not_for_this_moment_and_deployment_is_refused(
    testbed: Testbed, runs, monkeypatch, what: str
) -> None:
    changed = {"RUNCTL_DEPLOYMENT": "other"} if what == "another deployment" else {}
    intruder = Intruder(testbed, runs[0], monkeypatch, **changed)
    prove = intruder.function.prove
    if what == "two minutes ago":
        past = datetime.now(timezone.utc) - timedelta(minutes=2)
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: past)
        proof = prove()
        monkeypatch.undo()
        intruder = Intruder(testbed, runs[0], monkeypatch)
    else:
        proof = prove()
    url = proof["url"]
    if what == "changed":
        url = url.replace("Version=2011-06-15", "Version=2011-06-16")
    if what == "another host":
        url = url.replace(intruder.variables["AWS_ENDPOINT_URL"].rstrip("/"), "http://127.0.0.1:1")
    intruder.function.prove = lambda: {"url": url}
    answer = intruder.function.ask("agent")
    assert isinstance(answer, Refused), answer
    assert answer.reason


def test_the_instance_of_an_attempt_that_was_replaced_gets_no_session_any_more(
    testbed: Testbed, runs, monkeypatch
) -> None:
    run_id = runs[0]
    intruder = Intruder(testbed, run_id, monkeypatch)
    intruder.session()
    testbed.simulate_spot_interruption(run_id, attempt=1, notice=False)
    wait_for(lambda: testbed.run(run_id).fence == 2, "the next attempt")
    answer = intruder.function.ask("agent")
    assert isinstance(answer, Over), answer
    assert "attempt 2" in answer.reason
    assert isinstance(intruder.function.ask("trainer"), Over)


def test_a_trainer_that_wants_no_credentials_gets_none_through_its_agent(
    testbed: Testbed, runs, monkeypatch
) -> None:
    answer = Intruder(testbed, runs[0], monkeypatch).function.ask("trainer")
    assert isinstance(answer, Refused)
    assert "--credentials run" in answer.reason


def test_the_role_of_an_instance_itself_reaches_no_run(testbed: Testbed, runs, monkeypatch) -> None:
    intruder = Intruder(testbed, runs[0], monkeypatch)
    clients = Clients(Connection(region="us-east-1", credentials=InstanceRole()))
    bucket, table = testbed.deployment.bucket, testbed.deployment.table
    key = {name: {"S": value} for name, value in identity.run_key(intruder.run_id).items()}
    s3, items = clients.get("s3"), clients.get("dynamodb")
    prefix = identity.run_prefix(intruder.run_id)
    assert refusal(items.get_item, TableName=table, Key=key) in DENIED
    assert refusal(s3.list_objects_v2, Bucket=bucket, Prefix=prefix) in DENIED
    assert refusal(s3.put_object, Bucket=bucket, Key=f"{prefix}planted", Body=b"") in DENIED
