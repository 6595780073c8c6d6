# ruff: noqa: SLF001 - it evaluates states with ministack's interpreter of state machines
"""TestState: one state of a JSONata definition, run against a mock, as strictly as the API.

Step Functions developer guide, "Testing state machines with TestState API"; botocore's model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import stepfunctions as sfn

from runctl.local.core.limits import MAX_STATE_BYTES
from runctl.local.core.protocol import ApiError
from runctl.local.stepfunctions.definitions import problem

_MOCKED = ("Task", "Map", "Parallel")
_WAITING = (".waitForTaskToken", ".sync", ".sync:2")
_CONTEXT_FIELDS = {
    "Execution": {"Id", "Input", "Name", "RoleArn", "StartTime", "RedriveCount", "RedriveTime"},
    "State": {"EnteredTime", "Name", "RetryCount"},
    "StateMachine": {"Id", "Name"},
    "Task": {"Token"},
}
_DEFAULT_INTERVAL, _DEFAULT_BACKOFF, _DEFAULT_ATTEMPTS = 1, 2.0, 3
Document = dict[str, Any]


def install() -> None:
    """Answer TestState in ministack's place, once."""

    def test_state(data: Document) -> Any:
        try:
            return json_response(_answer(data))
        except ApiError as exc:
            return error_response_json(exc.code, exc.message, exc.status)

    sfn._test_state = test_state


def _answer(request: Mapping[str, Any]) -> Document:
    name, state, language = _state(request)
    kind = state["Type"]
    mock = request.get("mock") or {}
    _check_mock(kind, state, mock)
    if (state.get("QueryLanguage") or language) != "JSONata":
        raise ApiError("ValidationException", "The local cloud tests states of JSONata only.")
    context = _context(request, name, state)
    context["variables"] = _parsed(request, "variables", {})
    data = _parsed(request, "input", {})
    seen: Document = {"input": json.dumps(data)}
    try:
        answer = _RUNS[kind](state, data, context, request, seen)
        if "output" in answer:
            text = json.dumps(answer["output"])
            if len(text.encode()) > MAX_STATE_BYTES:
                raise sfn._ExecutionError("States.DataLimitExceeded", "the output is too large")
            answer["output"] = text
    except sfn._ExecutionError as exc:
        answer = {"status": "FAILED", "error": exc.error, "cause": exc.cause}
    if request.get("inspectionLevel", "INFO") != "INFO":
        seen["variables"] = json.dumps(context["variables"])
        answer["inspectionData"] = seen
    return answer


def _parsed(request: Mapping[str, Any], field: str, default: Any) -> Any:
    try:
        return json.loads(request[field]) if field in request else copy.deepcopy(default)
    except ValueError as exc:
        code = "InvalidExecutionInput" if field == "input" else "ValidationException"
        raise ApiError(code, f"Invalid JSON in {field}: {exc}") from exc


def _state(request: Mapping[str, Any]) -> tuple[str, Document, str]:
    """Return the name of the state under test, the state, and the query language around it."""
    try:
        definition = json.loads(request.get("definition", ""))
    except ValueError as exc:
        raise ApiError("InvalidDefinition", f"INVALID_JSON_DESCRIPTION: {exc}") from exc
    name = request.get("stateName")
    if name is None:
        whole: Document = {"StartAt": "S", "States": {"S": definition}}
        # A state alone may name states that are not there.
        if not isinstance(definition, dict) or definition.get("Type") not in _RUNS:
            raise ApiError("InvalidDefinition", problem(json.dumps(whole)) or "Not a state")
        return "TestState", definition, "JSONPath"
    if found := problem(json.dumps(definition)):
        raise ApiError("InvalidDefinition", f"Invalid State Machine Definition: '{found}'")
    if name not in definition["States"]:
        raise ApiError("ValidationException", f"State '{name}' not found in definition")
    return name, definition["States"][name], definition.get("QueryLanguage", "JSONPath")


def _check_mock(kind: str, state: Mapping[str, Any], mock: Mapping[str, Any]) -> None:
    if mock and kind not in _MOCKED:
        raise ApiError(
            "ValidationException", f"State type '{kind}' is not supported when a mock is specified"
        )
    if not mock and kind in _MOCKED:
        if kind != "Task" or str(state.get("Resource", "")).endswith(_WAITING):
            raise ApiError("InvalidDefinition", f"TestState needs a mock for this {kind} state.")
        raise ApiError("ValidationException", "The local cloud tests tasks with a mock only.")
    if not mock:
        return
    if "result" in mock and "errorOutput" in mock:
        raise ApiError(
            "ValidationException",
            "A test mock should have only one of the following fields: [result, errorOutput].",
        )
    if "errorOutput" in mock and "error" not in mock["errorOutput"]:
        raise ApiError("ValidationException", "mock.errorOutput needs the field error.")
    if "result" in mock and kind == "Task" and mock.get("fieldValidationMode") != "NONE":
        raise ApiError(
            "ValidationException",
            "The local cloud does not compare mocks with API models: set fieldValidationMode NONE.",
        )
    if "result" in mock and kind == "Map":
        wanted = dict if "ResultWriter" in state else list
        if not isinstance(_parsed(mock, "result", None), wanted):
            kind = "a JSON object" if wanted is dict else "an array"
            raise ApiError("ValidationException", f"Mocked result must be {kind}.")


def _context(request: Mapping[str, Any], name: str, state: Mapping[str, Any]) -> Document:
    given = _parsed(request, "context", {})
    if given and not request.get("mock"):
        raise ApiError("ValidationException", "A context may only be given together with a mock.")
    for section, fields in given.items():
        unknown = set(fields) - _CONTEXT_FIELDS.get(section, set())
        if section not in _CONTEXT_FIELDS or unknown:
            what = section if section not in _CONTEXT_FIELDS else f"{section}.{min(unknown)}"
            raise ApiError(
                "ValidationException",
                f"Invalid Context object provided: '{what}' field is not supported when mocking a "
                "Context object",
            )
    if "Task" in given and not str(state.get("Resource", "")).endswith(_WAITING):
        raise ApiError(
            "ValidationException",
            "Context object contains 'Task' when state is not a Task state with a '.sync' or "
            "'.waitForTaskToken' service integration pattern",
        )
    arn = "arn:aws:states:us-east-1:123456789012"
    default = {
        "Execution": {"Id": f"{arn}:execution:test:test", "Input": {}, "Name": "test",
                      "RoleArn": "", "StartTime": sfn.now_iso()},
        "State": {"Name": name, "EnteredTime": sfn.now_iso(), "RetryCount": 0},
        "StateMachine": {"Id": f"{arn}:stateMachine:test", "Name": "test"},
    }  # fmt: skip
    merged = {
        section: {**default.get(section, {}), **given.get(section, {})}
        for section in {**default, **given}
    }
    return {"QueryLanguage": "JSONata", **merged}


def _worked(
    state: Document, data: Any, context: Document, request: Mapping[str, Any], seen: Document
) -> Document:
    """Run a Task or a Map: its arguments, then the mocked result or error."""
    mock = request["mock"]
    try:
        _evaluate_request(state, data, context, seen)
        if "errorOutput" in mock:
            failed = mock["errorOutput"]
            raise sfn._ExecutionError(failed["error"], failed.get("cause", ""))
        result = _parsed(mock, "result", None)
        output = sfn._apply_jsonata_output(state, data, context, result=result, default=result)
        sfn._apply_state_assign(state, data, context, result=result)
    except sfn._ExecutionError as exc:
        return _handled(exc, state, data, context, request, seen)
    return _passed(output, state)


def _evaluate_request(state: Document, data: Any, context: Document, seen: Document) -> None:
    if state["Type"] == "Task":
        seen["afterArguments"] = json.dumps(sfn._apply_jsonata_arguments(state, data, context))
        for field in ("TimeoutSeconds", "HeartbeatSeconds"):
            if field in state:
                sfn._jsonata_state_field(state, field, "number", data, context)
        return
    items = sfn._jsonata_state_field(state, "Items", "array", data, context)
    if "MaxConcurrency" in state:
        sfn._jsonata_state_field(state, "MaxConcurrency", "number", data, context)
    selector = state.get("ItemSelector")
    selected = [
        sfn._apply_jsonata_template(
            selector, data, {**context, "Map": {"Item": {"Index": index, "Value": item}}}
        )
        if selector is not None
        else item
        for index, item in enumerate(items)
    ]
    seen["afterItemSelector"] = json.dumps(selected)


def _handled(
    failed: Any,
    state: Document,
    data: Any,
    context: Document,
    request: Mapping[str, Any],
    seen: Document,
) -> Document:
    told = {"error": failed.error, "cause": failed.cause}
    count = (request.get("stateConfiguration") or {}).get("retrierRetryCount", 0)
    for index, retrier in enumerate(state.get("Retry", [])):
        if not sfn._error_matches(retrier["ErrorEquals"], failed.error):
            continue
        if count < retrier.get("MaxAttempts", _DEFAULT_ATTEMPTS):
            interval = retrier.get("IntervalSeconds", _DEFAULT_INTERVAL)
            wait = interval * retrier.get("BackoffRate", _DEFAULT_BACKOFF) ** count
            seconds = int(min(wait, retrier.get("MaxDelaySeconds", wait)))
            seen["errorDetails"] = {"retryIndex": index, "retryBackoffIntervalSeconds": seconds}
            return {"status": "RETRIABLE", **told}
        break  # the first that names the error decides
    for index, catcher in enumerate(state.get("Catch", [])):
        if sfn._error_matches(catcher["ErrorEquals"], failed.error):
            error_output = {"Error": failed.error, "Cause": failed.cause}
            output = sfn._apply_catcher(catcher, data, context, "JSONata", error_output)
            seen["errorDetails"] = {"catchIndex": index}
            after = catcher["Next"]
            return {"status": "CAUGHT_ERROR", **told, "output": output, "nextState": after}
    return {"status": "FAILED", **told}


def _passed(output: Any, state: Mapping[str, Any]) -> Document:
    after = {"nextState": state["Next"]} if "Next" in state else {}
    return {"status": "SUCCEEDED", "output": output, **after}


def _chosen(state: Document, data: Any, context: Document, *_: Any) -> Document:
    for index, rule in enumerate(state["Choices"]):
        found = sfn._apply_jsonata_template(rule["Condition"], data, context)
        if not isinstance(found, bool):
            raise sfn._ExecutionError(
                "States.QueryEvaluationError",
                f"The JSONata expression specified for the field 'Choices[{index}]/Condition' "
                f"returned an unexpected result type. Expected 'boolean', but was "
                f"'{sfn._json_type(found)}' for value: {json.dumps(found)}",
            )
    output, after = sfn._execute_choice(state, data, context)
    return {"status": "SUCCEEDED", "output": output, "nextState": after}


def _waited(state: Document, data: Any, context: Document, *_: Any) -> Document:
    if "Seconds" in state:
        sfn._jsonata_wait_seconds(state, data, context)
    elif "Timestamp" in state:
        sfn._jsonata_wait_timestamp(state, data, context)
    # Without the wait itself, which AWS performs.
    without = {name: value for name, value in state.items() if name not in ("Seconds", "Timestamp")}
    output, _after = sfn._execute_wait(without, data, context)
    return _passed(output, state)


def _copied(state: Document, data: Any, context: Document, *_: Any) -> Document:
    output, _after = sfn._execute_pass(state, data, context)
    return _passed(output, state)


def _succeeded(state: Document, data: Any, context: Document, *_: Any) -> Document:
    output = sfn._apply_jsonata_output(state, data, context, default=data)
    return {"status": "SUCCEEDED", "output": output}


def _failed(state: Document, data: Any, context: Document, *_: Any) -> Document:
    raise sfn._ExecutionError(*sfn._fail_state_error(state, data, context))


_RUNS: Mapping[str, Callable[..., Document]] = {
    "Task": _worked,
    "Map": _worked,
    "Choice": _chosen,
    "Wait": _waited,
    "Pass": _copied,
    "Succeed": _succeeded,
    "Fail": _failed,
}
