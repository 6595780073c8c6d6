"""TestState on the local cloud: one state against a mock, with AWS's rules for mocks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.clouds import Cloud

pytestmark = pytest.mark.slow

RETRY = [{"ErrorEquals": ["Busy"], "IntervalSeconds": 2, "MaxAttempts": 3, "MaxDelaySeconds": 5}]
TASK = {
    "Type": "Task",
    "Resource": "arn:aws:states:::lambda:invoke",
    "Arguments": {"FunctionName": "f", "Payload": "{% $states.input.name %}"},
    "Assign": {"number": "{% $states.result.Payload.number %}"},
    "Output": "{% $states.result.Payload %}",
    "Retry": RETRY,
    "Catch": [
        {"ErrorEquals": ["Odd"], "Output": {"is": "odd"}, "Next": "Done"},
        {"ErrorEquals": ["States.ALL"], "Output": {"is": "caught"}, "Next": "Done"},
    ],
    "Next": "Choose",
}
STATES: dict[str, Any] = {
    "Work": TASK,
    "Choose": {
        "Type": "Choice",
        "Choices": [{"Condition": "{% $states.input.go %}", "Next": "Pause"}],
        "Default": "Done",
    },
    "Pause": {"Type": "Wait", "Seconds": "{% $states.input.seconds %}", "Next": "Each"},
    "Each": {
        "Type": "Map",
        "Items": "{% $states.input.items %}",
        "ItemSelector": {"it": "{% $states.context.Map.Item.Value %}"},
        "ItemProcessor": {"StartAt": "Inner", "States": {"Inner": {"Type": "Pass", "End": True}}},
        "Next": "Done",
    },
    "Done": {"Type": "Succeed"},
    "Broken": {"Type": "Fail", "Error": "{% $name %}", "Cause": "because"},
}
DEFINITION = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Work", "States": STATES})


def ask(cloud: Cloud, state: str, data: Any, **fields: Any) -> dict[str, Any]:
    got: dict[str, Any] = cloud.client("stepfunctions").test_state(
        definition=fields.pop("definition", DEFINITION),
        stateName=state,
        input=json.dumps(data),
        inspectionLevel="DEBUG",
        **fields,
    )
    return got


def result(value: Any) -> dict[str, Any]:
    return {"result": json.dumps(value), "fieldValidationMode": "NONE"}


def error(name: str) -> dict[str, Any]:
    return {"errorOutput": {"error": name, "cause": "x"}}


def test_a_task_has_the_mocked_result(cloud: Cloud) -> None:
    got = ask(cloud, "Work", {"name": "n"}, mock=result({"Payload": {"number": 1}}))
    assert (got["status"], got["nextState"]) == ("SUCCEEDED", "Choose")
    assert json.loads(got["output"]) == {"number": 1}
    assert json.loads(got["inspectionData"]["variables"]) == {"number": 1}
    asked = json.loads(got["inspectionData"]["afterArguments"])
    assert asked == {"FunctionName": "f", "Payload": "n"}


def test_a_task_whose_result_or_input_lacks_a_field_fails_or_is_caught(cloud: Cloud) -> None:
    got = ask(cloud, "Work", {"name": "n"}, mock=result({"Payload": {}}))
    assert (got["status"], got["error"]) == ("CAUGHT_ERROR", "States.QueryEvaluationError")
    got = ask(cloud, "Work", {}, mock=result({"Payload": {"number": 1}}))
    assert (got["status"], got["error"]) == ("CAUGHT_ERROR", "States.QueryEvaluationError")
    bare = {**TASK, "Catch": []}
    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": "Work",
                             "States": {**STATES, "Work": bare}})  # fmt: skip
    got = ask(cloud, "Work", {}, mock=result({"Payload": {}}), definition=definition)
    assert (got["status"], got["error"]) == ("FAILED", "States.QueryEvaluationError")


@pytest.mark.parametrize(("count", "seconds"), [(0, 2), (1, 4), (2, 5)])
def test_an_error_that_is_retried(cloud: Cloud, count: int, seconds: int) -> None:
    counted = {"retrierRetryCount": count}
    got = ask(cloud, "Work", {"name": "n"}, mock=error("Busy"), stateConfiguration=counted)
    assert got["status"] == "RETRIABLE"
    details = got["inspectionData"]["errorDetails"]
    assert details == {"retryIndex": 0, "retryBackoffIntervalSeconds": seconds}


@pytest.mark.parametrize(("name", "index"), [("Odd", 0), ("Other", 1), ("Busy", 1)])
def test_an_error_that_is_caught(cloud: Cloud, name: str, index: int) -> None:
    exhausted = {"retrierRetryCount": 3}
    got = ask(cloud, "Work", {"name": "n"}, mock=error(name), stateConfiguration=exhausted)
    assert (got["status"], got["nextState"], got["error"]) == ("CAUGHT_ERROR", "Done", name)
    assert got["inspectionData"]["errorDetails"] == {"catchIndex": index}


def test_the_other_states(cloud: Cloud) -> None:
    assert ask(cloud, "Choose", {"go": True})["nextState"] == "Pause"
    assert ask(cloud, "Choose", {"go": False})["nextState"] == "Done"
    for data in ({}, {"go": "yes"}):  # undefined, and no boolean
        got = ask(cloud, "Choose", data)
        assert (got["status"], got["error"]) == ("FAILED", "States.QueryEvaluationError")
    assert ask(cloud, "Pause", {"seconds": 200})["nextState"] == "Each"
    assert ask(cloud, "Pause", {"seconds": "two"})["status"] == "FAILED"
    got = ask(cloud, "Each", {"items": [1, 2]}, mock={"result": "[1, 2]"})
    assert (got["status"], got["nextState"]) == ("SUCCEEDED", "Done")
    assert json.loads(got["inspectionData"]["afterItemSelector"]) == [{"it": 1}, {"it": 2}]
    assert ask(cloud, "Each", {"items": 3}, mock={"result": "[]"})["status"] == "FAILED"
    assert ask(cloud, "Done", {"a": 1})["output"] == '{"a": 1}'
    got = ask(cloud, "Broken", {}, variables='{"name": "Mine"}')
    assert (got["status"], got["error"], got["cause"]) == ("FAILED", "Mine", "because")
    assert ask(cloud, "Broken", {})["error"] == "States.QueryEvaluationError"


@pytest.mark.parametrize(
    ("state", "fields", "code"),
    [
        ("Choose", {"mock": error("X")}, "'Choice' is not supported when a mock"),
        ("Each", {}, "InvalidDefinition"),
        ("Each", {"mock": {"result": "{}"}}, "must be an array"),
        ("Work", {}, "with a mock only"),
        ("Work", {"mock": {**result({}), **error("X")}}, "only one of the following fields"),
        ("Work", {"mock": {"result": "{}"}}, "fieldValidationMode NONE"),
        ("Work", {"mock": {"errorOutput": {"cause": "x"}}}, "needs the field error"),
        ("Work", {"mock": error("X"), "context": '{"Map": {}}'}, "'Map' field is not supported"),
        ("Work", {"mock": error("X"), "context": '{"Task": {"Token": "t"}}'}, "contains 'Task'"),
        ("Done", {"context": '{"Execution": {"Id": "x"}}'}, "together with a mock"),
        ("Nowhere", {"mock": error("X")}, "not found in definition"),
        ("Work", {"mock": error("X"), "definition": "{}"}, "States field must contain states"),
    ],
)
def test_what_the_api_refuses(cloud: Cloud, state: str, fields: Any, code: str) -> None:
    with pytest.raises(ClientError, match=code):
        ask(cloud, state, {}, **fields)
