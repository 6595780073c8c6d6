"""State machines behave as on AWS where the emulator alone would not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud, eventually, unique

pytestmark = pytest.mark.slow

# Stores every task token that it is given in a queue, and fails when asked to.
TOKEN_STORE = """
import boto3
class CapacityError(Exception):
    pass
def handler(event, context):
    if event.get("fail"):
        raise CapacityError("no pool\\nhas capacity")
    boto3.client("sqs").send_message(QueueUrl=event["queue"], MessageBody=event["token"])
"""
ECHO = "def handler(event, context):\n    return event\n"


def waiting(function: str, **fields: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Arguments": {
            "FunctionName": function,
            "Payload": {
                "token": "{% $states.context.Task.Token %}",
                "queue": "{% $states.context.Execution.Input.queue %}",
                "fail": "{% $exists($states.context.Execution.Input.fail) %}",
            },
        },
        "TimeoutSeconds": 60,
        "End": True,
        **fields,
    }


class Tokens:
    """Reads the task tokens that the function stores."""

    def __init__(self, cloud: Cloud) -> None:
        self._sqs = cloud.client("sqs")
        self.queue: str = self._sqs.create_queue(QueueName=unique("tokens"))["QueueUrl"]

    def next(self) -> str:
        def check() -> str | None:
            for message in self._sqs.receive_message(QueueUrl=self.queue).get("Messages", []):
                self._sqs.delete_message(
                    QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"]
                )
                return str(message["Body"])
            return None

        token: str = eventually(check)
        return token


def test_silence_fails_the_task_and_a_heartbeat_prevents_it(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    machine = cloud.machine({"Train": waiting(cloud.function(TOKEN_STORE), HeartbeatSeconds=1)})
    execution = cloud.start(machine, {"queue": tokens.queue})
    token = tokens.next()
    beats = 0

    def beat_four_times() -> bool:
        nonlocal beats
        sfn.send_task_heartbeat(taskToken=token)
        beats += 1
        return beats == 30  # 30 polls are 1.5 s: longer than the allowed silence

    eventually(beat_four_times)
    assert sfn.describe_execution(executionArn=execution)["status"] == "RUNNING"
    ended = cloud.ended(execution)
    assert (ended["status"], ended["error"]) == ("FAILED", "States.HeartbeatTimeout")


def test_the_allowed_silence_can_be_scaled_down(cloud: Cloud) -> None:
    cloud.admin.set_knobs(heartbeat_scale=0.001)
    tokens = Tokens(cloud)
    task = waiting(cloud.function(TOKEN_STORE), HeartbeatSeconds=300, TimeoutSeconds=900)
    execution = cloud.start(cloud.machine({"Train": task}), {"queue": tokens.queue})
    assert cloud.ended(execution)["error"] == "States.HeartbeatTimeout"


def test_the_allowed_silence_may_be_an_expression(cloud: Cloud) -> None:
    cloud.admin.set_knobs(heartbeat_scale=0.001)
    tokens = Tokens(cloud)
    seconds = "{% $states.input.seconds * 2 %}"
    task = waiting(cloud.function(TOKEN_STORE), HeartbeatSeconds=seconds)
    machine = cloud.machine({"Train": task})
    ends = {}
    for given in (150, "none", 0):
        execution = cloud.start(machine, {"queue": tokens.queue, "seconds": given})
        ends[given] = cloud.ended(execution)["error"]
    unusable = "States.QueryEvaluationError"
    assert ends == {150: "States.HeartbeatTimeout", "none": unusable, 0: unusable}


def test_a_catch_of_timeouts_also_catches_lost_heartbeats(cloud: Cloud) -> None:
    tokens = Tokens(cloud)
    task = waiting(
        cloud.function(TOKEN_STORE),
        HeartbeatSeconds=1,
        Catch=[{"ErrorEquals": ["States.Timeout"], "Next": "Lost"}],
    )
    lost = {"Type": "Succeed", "Output": {"lost": True}}
    execution = cloud.start(cloud.machine({"Train": task, "Lost": lost}), {"queue": tokens.queue})
    assert json.loads(cloud.ended(execution)["output"]) == {"lost": True}


def test_each_try_has_its_own_token_and_the_old_one_is_refused(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    retry = [{"ErrorEquals": ["Again"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    cloud.admin.set_knobs(wait_scale=0.01)
    machine = cloud.machine({"Train": waiting(cloud.function(TOKEN_STORE), Retry=retry)})
    execution = cloud.start(machine, {"queue": tokens.queue})
    first = tokens.next()
    sfn.send_task_failure(taskToken=first, error="Again", cause="once more")
    second = tokens.next()
    assert first != second
    with pytest.raises(ClientError, match="TaskTimedOut"):
        sfn.send_task_success(taskToken=first, output="{}")
    sfn.send_task_success(taskToken=second, output='{"step": 3}')
    assert json.loads(cloud.ended(execution)["output"]) == {"step": 3}


def test_an_error_of_the_function_fails_the_waiting_task_at_once(cloud: Cloud) -> None:
    machine = cloud.machine({"Train": waiting(cloud.function(TOKEN_STORE))})
    ended = cloud.ended(cloud.start(machine, {"queue": "none", "fail": True}))
    assert (ended["status"], ended["error"]) == ("FAILED", "CapacityError")
    assert json.loads(ended["cause"])["errorMessage"] == "no pool\nhas capacity"


def test_a_functions_error_is_caught_by_its_class_name(cloud: Cloud) -> None:
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": cloud.function(TOKEN_STORE), "Payload": {"fail": True}},
        "Retry": [{"ErrorEquals": ["CapacityError"], "IntervalSeconds": 1, "MaxAttempts": 1}],
        "Catch": [
            {
                "ErrorEquals": ["CapacityError"],
                "Assign": {"name": "{% $states.errorOutput.Error %}"},
                "Output": {"caught": "{% $states.errorOutput.Error %}"},
                "Next": "Done",
            }
        ],
        "End": True,
    }
    done = {"Type": "Succeed", "Output": "{% [$name, $states.input.caught] %}"}
    cloud.admin.set_knobs(wait_scale=0.01)
    ended = cloud.ended(cloud.start(cloud.machine({"Launch": task, "Done": done})))
    assert json.loads(ended["output"]) == ["CapacityError", "CapacityError"]


def test_a_fail_state_evaluates_its_error_and_cause(cloud: Cloud) -> None:
    fail = {"Type": "Fail", "Error": "{% $states.input.error %}", "Cause": "{% 'a' & 'b' %}"}
    ended = cloud.ended(cloud.start(cloud.machine({"Fail": fail}), {"error": "GiveUp"}))
    assert (ended["error"], ended["cause"]) == ("GiveUp", "ab")


def test_context_choice_wait_and_assign_work_together(cloud: Cloud) -> None:
    states = {
        "First": {
            "Type": "Pass",
            "Assign": {
                "name": "{% $states.context.Execution.Name %}",
                "run": {"id": "{% $states.context.Execution.Id %}", "n": 1},
            },
            "Output": {"seconds": "{% $states.context.Execution.Input.seconds %}"},
            "Next": "Choose",
        },
        "Choose": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $run.n = 1 %}", "Next": "Wait"}],
            "Default": "Wrong",
        },
        "Wait": {"Type": "Wait", "Seconds": "{% $states.input.seconds %}", "Next": "Call"},
        "Call": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {
                "FunctionName": cloud.function(ECHO),
                "Payload": {"name": "{% $name %}", "id": "{% $run.id %}"},
            },
            "Output": "{% $states.result.Payload %}",
            "End": True,
        },
        "Wrong": {"Type": "Fail"},
    }
    name = unique("run")
    execution = cloud.start(cloud.machine(states), {"seconds": 0}, name=name)
    assert json.loads(cloud.ended(execution)["output"]) == {"name": name, "id": execution}


def test_stopping_ends_the_wait_for_a_token_and_is_announced(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    task = waiting(
        cloud.function(TOKEN_STORE),
        Retry=[{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 9}],
        Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Never"}],
    )
    machine = cloud.machine({"Train": task, "Never": {"Type": "Succeed"}})
    read = cloud.queue_for({"source": ["aws.states"], "detail": {"stateMachineArn": [machine]}})
    execution = cloud.start(machine, {"queue": tokens.queue})
    token = tokens.next()
    sfn.stop_execution(executionArn=execution, error="Stopped", cause="by hand")
    eventually(lambda: [event["detail"]["status"] for event in read()] == ["RUNNING", "ABORTED"])

    def refused() -> bool:
        try:
            sfn.send_task_heartbeat(taskToken=token)
        except ClientError as exc:
            return exc.response["Error"]["Code"] == "TaskTimedOut"
        return False

    eventually(refused)
    assert sfn.describe_execution(executionArn=execution)["status"] == "ABORTED"


def test_an_execution_that_takes_too_long_times_out(cloud: Cloud) -> None:
    machine = cloud.machine(
        {"Wait": {"Type": "Wait", "Seconds": 60, "End": True}}, TimeoutSeconds=1
    )
    assert cloud.ended(cloud.start(machine))["status"] == "TIMED_OUT"


def test_starting_twice_with_the_same_name_and_input_starts_once(cloud: Cloud) -> None:
    machine = cloud.machine({"Wait": {"Type": "Wait", "Seconds": 60, "End": True}})
    name = unique("run")
    first = cloud.start(machine, {"a": 1}, name=name)
    assert cloud.start(machine, {"a": 1}, name=name) == first
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        cloud.start(machine, {"a": 2}, name=name)
    cloud.client("stepfunctions").stop_execution(executionArn=first)
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        cloud.start(machine, {"a": 1}, name=name)


def test_a_nested_execution_is_separate_and_returns_its_output(cloud: Cloud) -> None:
    child = cloud.machine({"Done": {"Type": "Succeed", "Output": {"answer": 42}}})
    name = unique("child")
    tail = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Arguments": {"StateMachineArn": child, "Name": name, "Input": {"x": 1}},
        "Output": "{% $states.result.Output.answer %}",
        "End": True,
    }
    ended = cloud.ended(cloud.start(cloud.machine({"Continue": tail})))
    assert json.loads(ended["output"]) == 42
    listed = cloud.client("stepfunctions").list_executions(stateMachineArn=child)["executions"]
    assert [execution["name"] for execution in listed] == [name]


def test_stopping_a_parent_stops_its_child(cloud: Cloud) -> None:
    child = cloud.machine({"Wait": {"Type": "Wait", "Seconds": 60, "End": True}})
    tail = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Arguments": {"StateMachineArn": child, "Input": {}},
        "End": True,
    }
    sfn = cloud.client("stepfunctions")
    parent = cloud.start(cloud.machine({"Continue": tail}))
    eventually(lambda: sfn.list_executions(stateMachineArn=child)["executions"])
    sfn.stop_execution(executionArn=parent)
    started = sfn.list_executions(stateMachineArn=child)["executions"][0]["executionArn"]
    assert cloud.ended(started)["status"] == "ABORTED"


def test_a_failing_event_handler_is_retried(cloud: Cloud) -> None:
    s3, bucket, name = cloud.client("s3"), unique("tries"), unique("retried")
    s3.create_bucket(Bucket=bucket)
    code = (
        "import boto3, uuid\n"
        "def handler(event, context):\n"
        f"    s3 = boto3.client('s3')\n"
        f"    s3.put_object(Bucket='{bucket}', Key=uuid.uuid4().hex)\n"
        f"    tries = s3.list_objects_v2(Bucket='{bucket}')['KeyCount']\n"
        "    if tries < 2:\n"
        "        raise RuntimeError('not yet')\n"
    )
    events = cloud.client("events")
    events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))
    events.put_targets(Rule=name, Targets=[{"Id": "f", "Arn": cloud.function(code)}])
    events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": "{}"}])
    eventually(lambda: s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 2)


def test_a_function_imports_only_what_its_asset_and_the_runtime_hold(cloud: Cloud) -> None:
    code = (
        "import importlib.util as u\n"
        "NAMES = ['boto3', 'urllib3', 'runctl', 'rich', 'ministack', 'aws_lambda_powertools']\n"
        "def handler(event, context):\n"
        "    return [name for name in NAMES if u.find_spec(name)]\n"
    )
    got = cloud.client("lambda").invoke(FunctionName=cloud.function(code))["Payload"]
    assert json.load(got) == ["boto3", "urllib3"]


def test_an_execution_keeps_its_definition_when_the_machine_is_updated(cloud: Cloud) -> None:
    tokens, sfn = Tokens(cloud), cloud.client("stepfunctions")
    first = waiting(cloud.function(TOKEN_STORE), Next="Last")
    del first["End"]
    last = {"Type": "Pass", "Output": "before", "End": True}
    machine = cloud.machine({"First": first, "Last": last})
    execution = cloud.start(machine, {"queue": tokens.queue})
    token = tokens.next()
    before = sfn.describe_state_machine(stateMachineArn=machine)["definition"]
    after = before.replace('"before"', '"after"')
    sfn.update_state_machine(stateMachineArn=machine, definition=after)
    assert sfn.describe_state_machine(stateMachineArn=machine)["definition"] == after

    sfn.send_task_success(taskToken=token, output="{}")
    assert json.loads(cloud.ended(execution)["output"]) == "before"
    followed = sfn.describe_state_machine_for_execution(executionArn=execution)["definition"]
    assert json.loads(followed) == json.loads(before)
