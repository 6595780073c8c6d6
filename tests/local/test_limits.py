"""Sizes and names that AWS refuses are refused before ministack sees them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, unique

pytestmark = pytest.mark.slow

KIB = 1024
PASS = {"Done": {"Type": "Succeed"}}


def refused(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "two words"}, "InvalidName"),
        ({"name": "a/b"}, "InvalidName"),
        ({"name": "a:b"}, "InvalidName"),
        ({"name": "a\x7fb"}, "InvalidName"),
        ({"name": "n" * 81}, "ValidationException"),
        ({"input": json.dumps("x" * 256 * KIB)}, "ValidationException"),
        # In bytes: half as many characters are too many.
        ({"input": json.dumps("é" * 129 * KIB, ensure_ascii=False)}, "ValidationException"),
        ({"input": "{"}, "InvalidExecutionInput"),
    ],
)
def test_an_execution_with_a_bad_name_or_input_is_not_started(
    cloud: Cloud, fields: dict[str, str], code: str
) -> None:
    machine = cloud.machine(PASS)
    with pytest.raises(ClientError) as caught:
        cloud.client("stepfunctions").start_execution(stateMachineArn=machine, **fields)
    assert refused(caught) == code


def test_an_execution_with_the_longest_name_and_input_is_started(cloud: Cloud) -> None:
    text = json.dumps("x" * (256 * KIB - 2))
    started = cloud.client("stepfunctions").start_execution(
        stateMachineArn=cloud.machine(PASS), name=unique("n").ljust(80, "-"), input=text
    )
    assert cloud.ended(started["executionArn"])["output"] == text


def test_an_output_that_is_too_long_fails_the_execution_and_is_not_caught(cloud: Cloud) -> None:
    arn = cloud.function("def handler(event, context):\n    return 'x' * event['size']\n")
    states = {
        "Work": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": arn, "Payload": "{% $states.input %}"},
            "Output": "{% $states.result.Payload %}",
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Done"}],
            "Next": "Done",
        },
        **PASS,
    }
    machine = cloud.machine(states)
    small = cloud.ended(cloud.start(machine, {"size": 200 * KIB}))
    assert small["status"] == "SUCCEEDED"
    large = cloud.ended(cloud.start(machine, {"size": 300 * KIB}))
    assert (large["status"], large["error"]) == ("FAILED", "States.DataLimitExceeded")


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("send_task_failure", {"error": "e" * 257}),
        ("send_task_failure", {"cause": "c" * (32 * KIB + 1)}),
        ("send_task_success", {"output": json.dumps("é" * 129 * KIB, ensure_ascii=False)}),
        ("send_task_heartbeat", {"taskToken": "t" * 2049}),
    ],
)
def test_a_task_report_that_is_too_long_is_refused(
    cloud: Cloud, call: str, fields: dict[str, str]
) -> None:
    sfn = cloud.client("stepfunctions")
    with pytest.raises(ClientError) as caught:
        getattr(sfn, call)(**{"taskToken": "unknown", **fields})
    assert refused(caught) == "ValidationException"


def log_events(*messages: str, at: list[int] | None = None) -> list[dict[str, Any]]:
    now = int(time.time() * 1000)
    times = at or [0] * len(messages)
    return [
        {"timestamp": now + time, "message": message}
        for time, message in zip(times, messages, strict=True)
    ]


@pytest.mark.parametrize(
    "events",
    [
        log_events("x" * (1024 * KIB - 25)),
        log_events("é" * 512 * KIB),
        log_events(*["x" * 100] * 9_000),
        log_events("late", "early", at=[0, -1]),
        log_events("yesterday", "today", at=[-25 * 3600 * 1000, 0]),
    ],
    ids=["long", "long in UTF-8", "large batch", "order", "span"],
)
def test_a_batch_of_log_events_that_cloudwatch_refuses_is_refused(
    cloud: Cloud, events: list[dict[str, Any]]
) -> None:
    logs, group = cloud.client("logs"), unique("group")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="s")
    with pytest.raises(ClientError) as caught:
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)
    assert refused(caught) == "InvalidParameterException"
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=log_events("x" * 1000))


def test_names_of_log_streams_are_those_of_cloudwatch(cloud: Cloud) -> None:
    logs, group = cloud.client("logs"), unique("group")
    logs.create_log_group(logGroupName=group)
    for wrong in ("a:b", "a*", "s" * 513):
        with pytest.raises(ClientError) as caught:
            logs.create_log_stream(logGroupName=group, logStreamName=wrong)
        assert refused(caught) == "InvalidParameterException"


def test_events_larger_than_the_limit_are_refused(cloud: Cloud) -> None:
    events = cloud.client("events")
    entry = {"Source": "mine", "DetailType": "t", "Detail": json.dumps({"x": "y" * 600 * KIB})}
    assert events.put_events(Entries=[entry])["FailedEntryCount"] == 0
    with pytest.raises(ClientError) as caught:
        events.put_events(Entries=[entry, entry])
    assert refused(caught) == "ValidationException"
    with pytest.raises(ClientError):
        events.put_events(Entries=[{**entry, "Detail": "{}"}] * 11)


def test_an_item_of_400_kilobytes_is_refused(cloud: Cloud) -> None:
    dynamodb, table = cloud.client("dynamodb"), unique("table")
    dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ClientError, match="Item size"):
        dynamodb.put_item(TableName=table, Item={"k": {"S": "a"}, "v": {"S": "x" * 400 * KIB}})
    dynamodb.put_item(TableName=table, Item={"k": {"S": "a"}, "v": {"S": "x" * 399 * KIB}})
    with pytest.raises(ClientError, match="Item size"):
        dynamodb.update_item(
            TableName=table,
            Key={"k": {"S": "a"}},
            UpdateExpression="SET w = :w",
            ExpressionAttributeValues={":w": {"S": "x" * 2 * KIB}},
        )


@pytest.mark.parametrize(
    "fields",
    [{"TimeoutSeconds": 2_592_001}, {"Comment": "c" * 101}],
)
def test_a_command_outside_the_bounds_of_ssm_is_refused(
    cloud: Cloud, fields: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as caught:
        cloud.client("ssm").send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=["i-0123456789abcdef0"],
            Parameters={"commands": ["true"]},
            **fields,
        )
    assert refused(caught) == "ValidationException"


def test_a_parameter_of_more_than_four_kilobytes_is_refused(cloud: Cloud) -> None:
    ssm, name = cloud.client("ssm"), unique("/p")
    with pytest.raises(ClientError) as caught:
        ssm.put_parameter(Name=name, Value="x" * (4 * KIB + 1), Type="String")
    assert refused(caught) == "ValidationException"
    ssm.put_parameter(Name=name, Value="x" * 4 * KIB, Type="String")


def test_user_data_and_client_tokens_have_their_limits(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    template = cloud.template("#!/bin/sh\n".ljust(16 * KIB + 1, "#"))
    with pytest.raises(ClientError, match="16384"):
        ec2.create_fleet(**cloud.fleet_request(template))
    for wrong in ("t" * 65, "é"):
        with pytest.raises(ClientError, match="64 ASCII"):
            ec2.create_fleet(**cloud.fleet_request(cloud.template(), ClientToken=wrong))
    wrong_kind = [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}]
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        ec2.create_fleet(**cloud.fleet_request(cloud.template(), TagSpecifications=wrong_kind))
