"""RedriveExecution of the local cloud starts where AWS would, and refuses what AWS would refuse."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local.stepfunctions.redrive import why_not_redrivable
from tests.local.clouds import Cloud, eventually, unique
from tests.local.test_workflows import TOKEN_STORE, Tokens, waiting

pytestmark = pytest.mark.slow

# Reports that it runs, and answers with its own name when it is allowed to.
SLOW = """
import boto3, time, uuid
def handler(event, context):
    s3, name = boto3.client("s3"), uuid.uuid4().hex
    def keys(prefix):
        return s3.list_objects_v2(Bucket=event["bucket"], Prefix=prefix)["KeyCount"]
    s3.put_object(Bucket=event["bucket"], Key=f"began/{name}")
    while not keys(f"go/{name}"):
        time.sleep(0.02)
    s3.put_object(Bucket=event["bucket"], Key=f"answered/{name}")
    return name
"""
FOREVER = {"Wait": {"Type": "Wait", "Seconds": 600, "End": True}}
FAIL = {"Fail": {"Type": "Fail", "Error": "GiveUp", "Cause": "{% $states.input.why %}"}}


def history(cloud: Cloud, execution: str) -> list[dict[str, Any]]:
    answer = cloud.client("stepfunctions").get_execution_history(executionArn=execution)
    events: list[dict[str, Any]] = answer["events"]
    return events


def test_a_redrive_continues_in_the_failed_state_with_its_input_and_new_tries(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    cloud.admin.set_knobs(wait_scale=0.01)
    first = {
        "Type": "Pass",
        "Assign": {"kept": "{% $states.context.Execution.RedriveCount %}"},
        "Output": {"made": "by First"},
        "Next": "Train",
    }
    retry = [{"ErrorEquals": ["Again"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    output = "{% [$states.input.made, $kept, $states.context.Execution.RedriveCount] %}"
    train = waiting(cloud.function(TOKEN_STORE), Retry=retry, Output=output)
    machine = cloud.machine({"First": first, "Train": train})
    read = cloud.queue_for({"source": ["aws.states"], "detail": {"stateMachineArn": [machine]}})
    execution = cloud.start(machine, {"queue": tokens.queue})
    for _ in range(2):
        sfn.send_task_failure(taskToken=tokens.next(), error="Again", cause="no luck")
    failed = cloud.ended(execution)
    assert (failed["status"], failed["error"]) == ("FAILED", "Again")
    assert (failed["redriveCount"], failed["redriveStatus"]) == (0, "REDRIVABLE")

    date = sfn.redrive_execution(executionArn=execution)["redriveDate"]
    running = sfn.describe_execution(executionArn=execution)
    assert running["status"] == "RUNNING"
    assert (running["redriveCount"], running["redriveDate"]) == (1, date)
    assert running["redriveStatus"] == "NOT_REDRIVABLE"
    assert running["redriveStatusReason"] == "Execution is RUNNING and cannot be redriven"
    assert not {"error", "cause", "output", "stopDate"} & set(running)
    third = tokens.next()
    sfn.send_task_failure(taskToken=third, error="Again", cause="tries are counted anew")
    sfn.send_task_success(taskToken=tokens.next(), output="{}")
    ended = cloud.ended(execution)
    assert ended["status"] == "SUCCEEDED"
    assert json.loads(ended["output"]) == ["by First", 0, 1]
    assert ended["startDate"] == failed["startDate"]

    events = history(cloud, execution)
    kinds = [event["type"] for event in events]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert kinds.count("PassStateEntered") == 1
    assert kinds[kinds.index("ExecutionFailed") + 1] == "ExecutionRedriven"
    redriven = events[kinds.index("ExecutionRedriven")]
    assert redriven["executionRedrivenEventDetails"] == {"redriveCount": 1}
    assert kinds[-1] == "ExecutionSucceeded"
    (listed,) = sfn.list_executions(stateMachineArn=machine)["executions"]
    assert (listed["redriveCount"], listed["redriveDate"]) == (1, date)

    def announced() -> list[tuple[str, int, str]]:
        details = [event["detail"] for event in read()]
        return [
            (detail["status"], detail["redriveCount"], detail["redriveStatus"])
            for detail in details
        ]

    eventually(lambda: len(announced()) == 4)
    assert announced() == [
        ("RUNNING", 0, "NOT_REDRIVABLE"),
        ("FAILED", 0, "REDRIVABLE"),
        ("RUNNING", 1, "NOT_REDRIVABLE"),
        ("SUCCEEDED", 1, "NOT_REDRIVABLE"),
    ]


def test_late_actions_of_the_stopped_execution_do_not_affect_the_redriven_one(cloud: Cloud) -> None:
    s3, sfn, bucket = cloud.client("s3"), cloud.client("stepfunctions"), unique("slow")
    s3.create_bucket(Bucket=bucket)

    def names(prefix: str) -> set[str]:
        found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {entry["Key"].rpartition("/")[2] for entry in found}

    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": cloud.function(SLOW), "Payload": {"bucket": bucket}},
        "Output": "{% $states.result.Payload %}",
        "End": True,
    }
    execution = cloud.start(cloud.machine({"Call": task}))
    (old,) = eventually(lambda: names("began"))
    sfn.stop_execution(executionArn=execution)
    sfn.redrive_execution(executionArn=execution)
    (new,) = eventually(lambda: names("began") - {old})
    s3.put_object(Bucket=bucket, Key=f"go/{old}")
    eventually(lambda: names("answered"))
    s3.put_object(Bucket=bucket, Key=f"go/{new}")
    ended = cloud.ended(execution)
    assert (ended["status"], json.loads(ended["output"])) == ("SUCCEEDED", new)
    kinds = [event["type"] for event in history(cloud, execution)]
    assert [kinds.count(kind) for kind in ("TaskScheduled", "TaskSucceeded")] == [2, 1]


def test_an_old_token_is_refused_and_a_stop_wakes_the_redriven_one(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    machine = cloud.machine({"Train": waiting(cloud.function(TOKEN_STORE))})
    execution = cloud.start(machine, {"queue": tokens.queue})
    old = tokens.next()
    sfn.stop_execution(executionArn=execution)
    sfn.redrive_execution(executionArn=execution)
    new = tokens.next()
    with pytest.raises(ClientError, match="TaskTimedOut"):
        sfn.send_task_success(taskToken=old, output="{}")
    sfn.send_task_heartbeat(taskToken=new)
    sfn.stop_execution(executionArn=execution, cause="enough")
    assert sfn.describe_execution(executionArn=execution)["cause"] == "enough"

    def refused() -> bool:
        try:
            sfn.send_task_heartbeat(taskToken=new)
        except ClientError as exc:
            return exc.response["Error"]["Code"] == "TaskTimedOut"
        return False

    eventually(refused)


def test_a_time_limit_restarts_and_a_fail_state_fails_again(cloud: Cloud) -> None:
    sfn = cloud.client("stepfunctions")
    late = cloud.start(cloud.machine(FOREVER, TimeoutSeconds=1))
    over = cloud.start(cloud.machine(FAIL), {"why": "no data"})
    cloud.ended(late)
    cloud.ended(over)
    for execution in (late, over):
        sfn.redrive_execution(executionArn=execution)
    described = cloud.ended(over)
    assert (described["error"], described["cause"], described["redriveCount"]) == (
        "GiveUp",
        "no data",
        1,
    )
    assert cloud.ended(late)["status"] == "TIMED_OUT"


def test_a_redrive_keeps_the_definition_that_the_execution_began_with(cloud: Cloud) -> None:
    sfn, machine = cloud.client("stepfunctions"), cloud.machine(FAIL)
    execution = cloud.start(machine, {"why": "no data"})
    cloud.ended(execution)
    changed = {"StartAt": "Fail", "States": {"Fail": {"Type": "Succeed"}}}
    sfn.update_state_machine(stateMachineArn=machine, definition=json.dumps(changed))
    sfn.redrive_execution(executionArn=execution)
    assert cloud.ended(execution)["status"] == "FAILED"


def test_the_same_client_token_redrives_once(cloud: Cloud) -> None:
    sfn = cloud.client("stepfunctions")
    execution = cloud.start(cloud.machine(FAIL), {"why": "no data"})
    cloud.ended(execution)
    first = sfn.redrive_execution(executionArn=execution, clientToken="a")["redriveDate"]
    cloud.ended(execution)
    again = sfn.redrive_execution(executionArn=execution, clientToken="a")["redriveDate"]
    assert (again, cloud.ended(execution)["redriveCount"]) == (first, 1)
    sfn.redrive_execution(executionArn=execution, clientToken="b")
    assert cloud.ended(execution)["redriveCount"] == 2


def refusal(cloud: Cloud, execution: str, **fields: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        cloud.client("stepfunctions").redrive_execution(executionArn=execution, **fields)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_running_or_successful_execution_is_not_redriven(cloud: Cloud) -> None:
    sfn, done = cloud.client("stepfunctions"), {"Done": {"Type": "Succeed"}}
    running, succeeded = cloud.start(cloud.machine(FOREVER)), cloud.start(cloud.machine(done))
    cloud.ended(succeeded)
    for execution, status in ((running, "RUNNING"), (succeeded, "SUCCEEDED")):
        message = f"Execution is {status} and cannot be redriven"
        assert refusal(cloud, execution) == ("ExecutionNotRedrivable", message)
        described = sfn.describe_execution(executionArn=execution)
        assert (described["status"], described["redriveCount"]) == (status, 0)
        assert described["redriveStatusReason"] == message
    sfn.stop_execution(executionArn=running)


def test_unknown_malformed_and_express_executions_are_refused(cloud: Cloud) -> None:
    sfn = cloud.client("stepfunctions")
    machine = cloud.machine(FAIL)
    execution = cloud.start(machine, {"why": "no data"})
    cloud.ended(execution)
    assert refusal(cloud, f"{execution}-x")[0] == "ExecutionDoesNotExist"
    assert refusal(cloud, "my-run")[0] == "InvalidArn"
    assert refusal(cloud, machine)[0] == "InvalidArn"
    assert refusal(cloud, execution, clientToken="with space")[0] == "ValidationException"
    express = sfn.create_state_machine(
        name=unique("express"),
        definition=json.dumps({"StartAt": "Fail", "States": {"Fail": {"Type": "Fail"}}}),
        roleArn=cloud.role(),
        type="EXPRESS",
    )["stateMachineArn"]
    execution = cloud.start(express)
    cloud.ended(execution)
    code, message = refusal(cloud, execution)
    assert code == "ExecutionNotRedrivable"
    assert "EXPRESS" in message


def test_a_redrive_needs_its_permission_on_the_execution(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    machine = cloud.machine(FAIL)
    execution = cloud.start(machine, {"why": "no data"})
    cloud.ended(execution)

    def redrive(*, action: str, resource: str) -> None:
        allowed = {"Effect": "Allow", "Action": action, "Resource": resource}
        caller = cloud.assume(cloud.role(allowed))
        cloud.client("stepfunctions", **caller).redrive_execution(executionArn=execution)

    with pytest.raises(ClientError, match=r"AccessDenied.*states:RedriveExecution"):
        redrive(action="states:StartExecution", resource="*")
    with pytest.raises(ClientError, match="AccessDenied"):
        redrive(action="states:RedriveExecution", resource=machine)
    executions = machine.replace(":stateMachine:", ":execution:")
    redrive(action="states:RedriveExecution", resource=f"{executions}:*")
    assert cloud.ended(execution)["redriveCount"] == 1


NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("began", "ended", "events", "reason"),
    [
        (timedelta(days=20), timedelta(days=13, hours=23), 24_998, ""),
        (
            timedelta(days=20),
            timedelta(days=14, hours=1),
            9,
            "Execution redrivable period exceeded",
        ),
        (
            timedelta(days=366),
            timedelta(days=1),
            9,
            "Execution has exceeded the max execution time",
        ),
        (timedelta(days=2), timedelta(days=1), 24_999, "Execution history event limit exceeded"),
    ],
)
def test_a_redrive_needs_time_and_space_in_the_history(
    began: timedelta, ended: timedelta, events: int, reason: str
) -> None:
    execution = {
        "status": "ABORTED",
        "startDate": (NOW - began).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "stopDate": (NOW - ended).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "events": [{}] * events,
    }
    assert why_not_redrivable(execution, {"type": "STANDARD"}, now=NOW) == reason
