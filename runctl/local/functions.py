# ruff: noqa: SLF001 - it changes how ministack invokes functions
"""Lambda where ministack differs from AWS: names of errors, who may invoke, events tried again."""

from __future__ import annotations

import json
import re
from typing import Any

from ministack.services import eventbridge, lambda_svc
from ministack.services import stepfunctions as sfn

from runctl.local import iam
from runctl.local.actions import REQUIRED
from runctl.local.workflows import current_execution, role_of

_UNNAMED = "Runtime.HandlerError"
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def install() -> None:
    """Change ministack's invocations, once."""
    _name_errors()
    _check_invocations()
    _try_events_again()


def _name_errors() -> None:
    execute = lambda_svc._execute_function_warm

    def execute_function(func: Any, event: Any, request_id: str) -> dict[str, Any]:
        result: dict[str, Any] = execute(func, event, request_id)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == _UNNAMED:
            name = error_name(result.get("log", ""))
            if name:
                body["errorType"] = name
        return result

    lambda_svc._execute_function_warm = execute_function


def error_name(log: str) -> str | None:
    """Find the class of the exception that ended a handler in what it logged last."""
    *_, last = log.rpartition(_TRACEBACK)
    if _TRACEBACK not in log:
        return None
    raised = _RAISED.search(last)
    return raised.group(1).rpartition(".")[2] if raised else None


def _check_invocations() -> None:
    call = sfn._call_lambda

    def call_lambda(function: str, event: Any) -> Any:
        execution = current_execution()
        if execution:
            func, config, _ = lambda_svc._get_func_record_for_ref(function)
            arn = (config or {}).get("FunctionArn", function) if func else function
            for required in REQUIRED["states", "lambda:invoke"]:
                for resource in iam.resources_of(required, {"function": [arn]}):
                    if told := iam.denied_to_role(role_of(execution), required.action, resource):
                        raise sfn._ExecutionError(
                            "Lambda.AWSLambdaException",
                            f"{told} (Service: AWSLambda; Status Code: 403)",
                        )
        return call(function, event)

    sfn._call_lambda = call_lambda


def _try_events_again() -> None:
    """EventBridge invokes asynchronously: a failed handler is tried twice more."""

    def dispatch(arn: str, payload: str) -> None:
        func, config, _ = lambda_svc._get_func_record_for_ref(arn)
        if func and config:
            record = lambda_svc._execution_record_for_config(func, config)
            lambda_svc.invoke_async_with_retry(record, json.loads(payload))

    eventbridge._dispatch_to_lambda = dispatch
