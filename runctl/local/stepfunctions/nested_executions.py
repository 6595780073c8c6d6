# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""Nested executions that are waited for: executions of their own, with history and events."""

from __future__ import annotations

import json
import time
from typing import Any

from ministack.services import stepfunctions as sfn

from runctl.local.core import iam
from runctl.local.stepfunctions.executions import (
    Execution,
    StopFlags,
    StoppedError,
    current_execution,
    role_of,
)

_MANAGED_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"


def install(stop_flags: StopFlags) -> None:
    """Change how ministack runs `.sync` children, once."""

    def invoke(resource: str, data: dict[str, Any]) -> dict[str, Any]:
        parent = current_execution()
        request = sfn._nested_start_execution_request(data)
        if parent:
            _check_nesting(parent, request["stateMachineArn"])
        status, _, body = sfn._start_execution(request)
        answer = json.loads(body)
        if status != 200:
            name = f"StepFunctions.{answer.get('__type', 'AWSStepFunctionsException')}"
            raise sfn._ExecutionError(name, answer.get("message", ""))
        child = sfn._executions[answer["executionArn"]]
        while child["status"] == "RUNNING":
            if parent and stop_flags.stopped(parent).wait(0.05):
                sfn._stop_execution({"executionArn": child["executionArn"]})
                raise StoppedError
            if not parent:
                time.sleep(0.05)
        if child["status"] != "SUCCEEDED":
            raise sfn._ExecutionError(
                "States.TaskFailed", json.dumps(_described(child, parse=False))
            )
        return _described(child, parse=resource.endswith(":2"))

    sfn._invoke_nested_start_execution_sync = invoke


def _described(child: Execution, *, parse: bool) -> dict[str, Any]:
    def value(text: str | None) -> Any:
        return json.loads(text) if parse and text else text

    described = {
        "ExecutionArn": child["executionArn"],
        "StateMachineArn": child["stateMachineArn"],
        "Name": child["name"],
        "Status": child["status"],
        "StartDate": child["startDate"],
        "StopDate": child["stopDate"],
        "Input": value(child["input"]),
        "Output": value(child["output"]) if child["status"] == "SUCCEEDED" else None,
        "Error": child.get("error"),
        "Cause": child.get("cause"),
    }
    return {key: value for key, value in described.items() if value is not None}


def _check_nesting(parent: Execution, machine: str) -> None:
    name = machine.rpartition(":")[2]
    arn = parent["executionArn"].rsplit(":", 3)[0]
    account = ":".join(arn.split(":")[3:5])
    facts = {
        "machine": [machine],
        "execution": [f"{arn}:execution:{name}:any"],
        "rule": [f"arn:aws:events:{account}:rule/{_MANAGED_RULE}"],
    }
    if refusal := iam.refusal_of_role(
        role_of(parent), "states", "states:startExecution.sync:2", facts
    ):
        raise sfn._ExecutionError("StepFunctions.AccessDeniedException", refusal)
