"""S4: with everything that an instance has, a hostile run reaches nothing of another run."""

import contextlib
import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from runctl.aws.caller_identity import HEADER
from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

REGION = "us-east-1"
SLEEPER = "import time\nprint('running', flush=True)\ntime.sleep(600)\n"
Keys = dict[str, str]


def keys_of(answer: dict[str, Any]) -> Keys:
    held = answer["Credentials"]
    return {
        "aws_access_key_id": held["AccessKeyId"],
        "aws_secret_access_key": held["SecretAccessKey"],
        "aws_session_token": held["SessionToken"],
    }


def client(testbed: Testbed, service: str, keys: Keys) -> Any:
    return boto3.client(service, endpoint_url=testbed.endpoint.url, region_name=REGION, **keys)


def assume(testbed: Testbed, role: str, name: str) -> Keys:
    """Return credentials of the role with this part of its name, as its own service has them."""
    found = [
        each["Arn"]
        for each in testbed.clients.get("iam").list_roles()["Roles"]
        if role in each["RoleName"]
    ]
    return keys_of(testbed.clients.get("sts").assume_role(RoleArn=found[0], RoleSessionName=name))


def identity(testbed: Testbed, keys: Keys, *, deployment: str = "runctl") -> dict[str, str]:
    url = f"{testbed.endpoint.url}/?Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest(method="GET", url=url, headers={HEADER: deployment})
    credentials = Credentials(*keys.values())
    SigV4QueryAuth(credentials, "sts", REGION, expires=60).add_auth(request)
    return {"url": str(request.url)}


def ask(
    testbed: Testbed, keys: Keys, *, as_keys: Keys | None = None, **event: Any
) -> dict[str, Any]:
    """Ask for a session, as the instance with these keys; `as_keys` sign the identity."""
    document = {"identity": identity(testbed, as_keys or keys), "purpose": "agent", **event}
    answer = client(testbed, "lambda", keys).invoke(
        FunctionName="runctl-issue_credentials", Payload=json.dumps(document).encode()
    )
    assert "FunctionError" not in answer
    found: dict[str, Any] = json.loads(answer["Payload"].read())
    return found


def session_of(answer: dict[str, Any]) -> Keys:
    assert answer["status"] == "issued", answer
    held = answer["credentials"]
    return {
        "aws_access_key_id": held["access_key"],
        "aws_secret_access_key": held["secret_key"],
        "aws_session_token": held["token"],
    }


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


def started(testbed: Testbed, run_id: str, **request: Any) -> str:
    """Start a run that sleeps; return its instance."""
    testbed.start(
        {
            "code": testbed.upload_project({"sleep.py": SLEEPER}),
            "command": [sys.executable, "sleep.py"],
            **request,
        },
        name=run_id,
    )
    return testbed.wait_for_launch(run_id, attempt=1)


@pytest.fixture
def runs(testbed: Testbed, new_name: Callable[[], str]):
    """A hostile run, whose program is root, its victim, and the keys of their instances."""
    hostile, victim = new_name(), new_name()
    # Two of one group: what they share must be all that one reaches of the other.
    group = {"group": new_name()}
    DynamoGroupLedger(testbed.clients.get("dynamodb"), testbed.deployment.table).create_group(
        Group(
            group_id=group["group"],
            kind="sweep",
            execution=group["group"],
            execution_arn=testbed.workflow.execution_arn(group["group"]),
            started_at=datetime.now(timezone.utc),
        )
    )
    instances = [started(testbed, hostile, root=True, **group), started(testbed, victim, **group)]
    yield hostile, victim, [assume(testbed, "InstanceRole", each) for each in instances]
    for run_id in (hostile, victim):
        with contextlib.suppress(Exception):
            testbed.workflow.stop(testbed.run(run_id).execution_arn)


def test_a_hostile_run_reaches_nothing_of_another(testbed: Testbed, runs) -> None:
    hostile, victim, (own_instance, others_instance) = runs
    answer = ask(testbed, own_instance)
    assert (answer["run_id"], answer["attempt"], answer["rank"]) == (hostile, 1, 0)
    keys = session_of(answer)
    bucket, table = testbed.deployment.bucket, testbed.deployment.table
    s3, ledger = client(testbed, "s3", keys), client(testbed, "dynamodb", keys)
    logs, states = client(testbed, "logs", keys), client(testbed, "stepfunctions", keys)
    group = testbed.run(hostile).request.group
    own_id, others_id = (testbed.wait_for_launch(run_id, attempt=1) for run_id in (hostile, victim))
    secret = {"Bucket": bucket, "Key": f"runs/{victim}/outputs/secret.txt"}
    testbed.clients.get("s3").put_object(**secret, Body=b"secret")

    def item(key: str, sort: str = "RUN") -> dict[str, Any]:
        return {"TableName": table, "Key": {"pk": {"S": key}, "sk": {"S": sort}}}

    def write(key: str, attribute: str, sort: str = "RUN") -> Any:
        return ledger.update_item(
            **item(key, sort),
            UpdateExpression="SET #a = :v",
            ExpressionAttributeNames={"#a": attribute},
            ExpressionAttributeValues={":v": {"S": "x"}},
        )

    def query(run_id: str) -> Any:
        return ledger.query(
            TableName=table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"RUN#{run_id}"}},
        )

    stream = {"logGroupName": testbed.deployment.log_group, "logStreamName": f"{victim}/0001-000"}
    environments = f"environments/runs/{victim}/0000/{'0' * 64}.json"
    attacks: dict[str, Callable[[], Any]] = {
        "read an output": lambda: s3.get_object(**secret),
        "replace an output": lambda: s3.put_object(**secret, Body=b"x"),
        "delete a part": lambda: s3.delete_object(
            Bucket=bucket, Key=f"runs/{victim}/checkpoints/parts/x"
        ),
        "list a run": lambda: s3.list_objects_v2(Bucket=bucket, Prefix=f"runs/{victim}/"),
        "list everything": lambda: s3.list_objects_v2(Bucket=bucket),
        "choose an environment": lambda: s3.put_object(
            Bucket=bucket, Key=environments, Body=b"x", IfNoneMatch="*"
        ),
        "read the code": lambda: s3.get_object(Bucket=bucket, Key=f"code/{'0' * 64}.tar.gz"),
        "read an item": lambda: ledger.get_item(**item(f"RUN#{victim}")),
        "read a token": lambda: ledger.get_item(**item(f"TOKEN#{victim}#0001", "TOKEN")),
        "read the token of its next attempt": lambda: ledger.get_item(
            **item(f"TOKEN#{hostile}#0002", "TOKEN")
        ),
        "write a token": lambda: write(f"TOKEN#{hostile}#0001", "token", "TOKEN"),
        "query a run": lambda: query(victim),
        "list the runs": lambda: ledger.scan(TableName=table),
        "end a run": lambda: write(f"RUN#{victim}", "ended"),
        "rewrite its own request": lambda: write(f"RUN#{hostile}", "request"),
        "take an instance": lambda: write("INSTANCE#i-0123456789abcdef0", "run_id"),
        "see an offer": lambda: ledger.get_item(**item(f"WARM#{group}#{others_id}", "OFFER")),
        "withdraw the offer of another instance": lambda: write(
            f"WARM#{group}#{others_id}", "stage", "OFFER"
        ),
        "plant an instance in the list": lambda: write(
            f"WARM#{group}", "stage", f"INSTANCE#{others_id}"
        ),
        "wait for longer": lambda: write(f"WARM#{group}#{own_id}", "keep_seconds", "OFFER"),
        "join another group": lambda: write(f"WARM#sweep#{own_id}", "stage", "OFFER"),
        "write a log": lambda: logs.put_log_events(
            **stream, logEvents=[{"timestamp": 1, "message": "x"}]
        ),
        "read a log": lambda: logs.get_log_events(**stream),
        "stop an execution": lambda: states.stop_execution(
            executionArn=testbed.run(victim).execution_arn
        ),
        "start an execution": lambda: states.start_execution(
            stateMachineArn=testbed.deployment.state_machine_arn, input="{}"
        ),
        "end a machine": lambda: client(testbed, "ec2", keys).terminate_instances(
            InstanceIds=[testbed.wait_for_launch(victim, attempt=1)]
        ),
        "read a secret": lambda: client(testbed, "secretsmanager", keys).get_secret_value(
            SecretId="x"
        ),
        "become a run": lambda: client(testbed, "sts", keys).assume_role(
            RoleArn=testbed.clients.get("iam").list_roles()["Roles"][0]["Arn"], RoleSessionName="xx"
        ),
        "ask as a run": lambda: client(testbed, "lambda", keys).invoke(
            FunctionName="runctl-issue_credentials", Payload=b"{}"
        ),
    }
    refused = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
    answers = {name: refusal(attack) for name, attack in attacks.items()}
    assert {name: code for name, code in answers.items() if code not in refused} == {}
    assert testbed.clients.get("s3").get_object(**secret)["Body"].read() == b"secret"
    # What it does for itself is permitted.
    write(f"WARM#{group}#{own_id}", "left_at", "OFFER")
    own = {"Bucket": bucket, "Key": f"runs/{hostile}/outputs/x"}
    s3.put_object(**own, Body=b"x")
    assert s3.get_object(**own)["Body"].read() == b"x"
    assert "Item" in ledger.get_item(**item(f"RUN#{hostile}"))
    wait_for(lambda: testbed.attempts(hostile)[0].has_token, "the token")
    found = ledger.get_item(**item(f"TOKEN#{hostile}#0001", "TOKEN"))["Item"]
    assert found["token"]["S"] == testbed.ledger.find_token(hostile, 1)
    assert found["token"]["S"] not in str(query(hostile))
    # The other instance gets the session of the other run.
    assert ask(testbed, others_instance)["run_id"] == victim


def test_only_an_instance_itself_gets_its_session(testbed: Testbed, runs) -> None:
    hostile, victim, (keys, others) = runs
    # It claims to be the victim, and brings an identity for another deployment.
    claimed = {"run_id": victim, "attempt": 1}
    assert ask(testbed, keys, claimed=claimed)["run_id"] == hostile
    foreign = {"identity": identity(testbed, keys, deployment="other")}
    assert ask(testbed, keys, **foreign)["status"] == "refused"
    # A role that is not an instance's, in a session with the name of the victim's instance.
    impostor = assume(testbed, "PrepareRunRole", testbed.wait_for_launch(victim, attempt=1))
    answer = ask(testbed, keys, as_keys=impostor)
    assert answer["status"] == "refused"
    assert "is not the role of the deployment's instances" in answer["reason"]
    # The session that it was given proves nothing either.
    session = session_of(ask(testbed, keys))
    assert ask(testbed, keys, as_keys=session)["status"] == "refused"
    # A signature that was changed, and one by somebody else.
    url = identity(testbed, others)["url"]
    changed = url[:-1] + ("0" if url[-1] != "0" else "1")
    assert ask(testbed, keys, identity={"url": changed})["status"] == "refused"
    evil = url.replace("http://127.0.0.1", "http://169.254.169.254")
    assert ask(testbed, keys, identity={"url": evil})["status"] == "refused"


def test_an_instance_of_an_ended_run_gets_no_session(testbed: Testbed, runs) -> None:
    hostile, _, (keys, _) = runs
    long_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    testbed.ledger.end_run(hostile, status=RunStatus.STOPPED, reason="", now=long_ago)
    answer = ask(testbed, keys)
    assert (answer["status"], answer["reason"]) == ("over", f"the run {hostile} has ended: stopped")
    assert "credentials" not in answer


def test_a_run_stores_environments_but_cannot_replace_or_remove_those_of_others(
    testbed: Testbed, runs
) -> None:
    hostile, victim, (keys, others) = runs
    mine, theirs = (
        client(testbed, "s3", session_of(ask(testbed, each))) for each in (keys, others)
    )
    where = {"Bucket": testbed.deployment.bucket, "Key": "environments/current/f00d"}
    theirs.put_object(**where, Body=b"good", IfNoneMatch="*")
    # One that stores environments for all runs, and one that may not.
    for s3 in (theirs, mine):
        attacks: dict[str, Callable[[], Any]] = {
            "overwrite": lambda s3=s3: s3.put_object(**where, Body=b"evil"),
            "overwrite if it matches": lambda s3=s3: s3.put_object(
                **where, Body=b"evil", IfMatch=s3.head_object(**where)["ETag"]
            ),
            "upload in parts": lambda s3=s3: s3.create_multipart_upload(**where),
            "delete": lambda s3=s3: s3.delete_object(**where),
            "drop the policy": lambda s3=s3: s3.delete_bucket_policy(Bucket=where["Bucket"]),
        }
        refused = {name: refusal(attack) for name, attack in attacks.items()}
        assert refused == dict.fromkeys(attacks, "AccessDenied")
        batch = {"Objects": [{"Key": where["Key"]}]}
        with contextlib.suppress(ClientError):  # as a whole, or object by object
            (error,) = s3.delete_objects(Bucket=where["Bucket"], Delete=batch)["Errors"]
            assert error["Code"] == "AccessDenied"
    again = {"Body": b"evil", "IfNoneMatch": "*"}
    assert refusal(lambda: theirs.put_object(**where, **again)) == "PreconditionFailed"
    assert testbed.clients.get("s3").get_object(**where)["Body"].read() == b"good"
    # The program of the hostile run is root: it is not the first to store something either.
    for key in (
        "current/cafe",
        "manifests/cafe/0.json",
        "parts/cafe",
        f"own/{victim}/current/cafe",
    ):
        planted = {"Bucket": where["Bucket"], "Key": f"environments/{key}"}
        assert (
            refusal(lambda planted=planted: mine.put_object(**planted, **again)) == "AccessDenied"
        )
    own = {"Bucket": where["Bucket"], "Key": f"environments/own/{hostile}/current/cafe"}
    mine.put_object(**own, **again)
    assert mine.get_object(**where)["Body"].read() == b"good"
