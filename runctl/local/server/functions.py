# ruff: noqa: SLF001 - it changes how ministack invokes functions
"""Lambda where ministack differs from AWS: errors, permissions, retries and environments."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ministack.core import iam_evaluator, lambda_runtime
from ministack.services import eventbridge, lambda_svc
from ministack.services import stepfunctions as sfn

from runctl.local.core import iam, records
from runctl.local.server import environments
from runctl.local.stepfunctions.executions import current_execution, role_of

logger = logging.getLogger(__name__)

_rule: contextvars.ContextVar[str] = contextvars.ContextVar("rule", default="")
_WARMED_AT_ONCE = 2
_UNNAMED = "Runtime.HandlerError"
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def install(home: Path) -> None:
    """Change ministack's invocations, once."""
    _name_errors()
    _check_invocations()
    _try_events_again()
    _issue_credentials()
    environments.install(home)


def warm_up(account: str, region: str) -> None:
    """Start an environment for every function, in the background.

    Not for those that have their code alone: theirs is large, and unpacking it delays the others.
    """

    def start(record: dict[str, Any]) -> None:
        with records.scope(account, region):
            config = record["config"]
            worker, _ = lambda_runtime.acquire_worker(
                config["FunctionName"], config, record["code_zip"], qualifier="$LATEST"
            )
            if worker is None:
                return
            try:
                lambda_runtime.ensure_spawned(worker)
            finally:
                lambda_runtime.release_worker(worker)

    with records.scope(account, region):
        functions = [
            function
            for function in lambda_svc._functions.values()
            if function["config"].get("Runtime", "").startswith("python")
            and function.get("code_zip")
        ]
    users = Counter(function["code_zip"] for function in functions)
    shared = [function for function in functions if users[function["code_zip"]] > 1]
    pool = ThreadPoolExecutor(max_workers=_WARMED_AT_ONCE, thread_name_prefix="warm-up")
    for record in shared:
        pool.submit(start, record)
    pool.shutdown(wait=False)


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
    """Find the class of the exception that ended a handler in its last log line."""
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
            facts = {"function": [arn]}
            if refusal := iam.refusal_of_role(role_of(execution), "states", "lambda:invoke", facts):
                raise sfn._ExecutionError(
                    "Lambda.AWSLambdaException",
                    f"{refusal} (Service: AWSLambda; Status Code: 403)",
                )
        return call(function, event)

    sfn._call_lambda = call_lambda


def _try_events_again() -> None:
    """Retry failed handlers twice, as EventBridge does, which invokes asynchronously."""
    invoke = eventbridge._invoke_target

    def invoke_target(target: Any, event: Any, rule: dict[str, Any], view: Any = None) -> None:
        token = _rule.set(rule["Arn"])
        try:
            invoke(target, event, rule, view)
        finally:
            _rule.reset(token)

    def dispatch(arn: str, payload: str) -> None:
        func, config, _ = lambda_svc._get_func_record_for_ref(arn)
        if not func or not config:
            return
        if not _may_invoke(func, arn):
            # As on AWS, nobody is informed: only a metric counts it.
            logger.warning(
                "%s may not invoke %s: the function's policy does not allow it", _rule.get(), arn
            )
            return
        record = lambda_svc._execution_record_for_config(func, config)
        lambda_svc.invoke_async_with_retry(record, json.loads(payload))

    eventbridge._invoke_target, eventbridge._dispatch_to_lambda = invoke_target, dispatch


def _may_invoke(func: dict[str, Any], arn: str) -> bool:
    if not iam.is_enforced():
        return True
    context = iam_evaluator.EvalContext(
        principal_arn="",
        principal_type="Service",
        principal_account=records.account_id(),
        action="lambda:InvokeFunction",
        resource_arn=arn,
        region=records.region(),
        service_context={
            "aws:sourcearn": _rule.get(),
            "aws:sourceaccount": records.account_id(),
        },
    )
    found = iam_evaluator.evaluate_resource_policy(
        func.get("policy"), context, service="events.amazonaws.com"
    )
    return bool(found.decision == "Allow")


def _issue_credentials() -> None:
    """Give each function a session of its role; the emulator derives the keys from public names."""
    issued: dict[tuple[str, str], dict[str, str]] = {}
    lock = threading.Lock()

    def execution_credentials(config: dict[str, Any]) -> dict[str, str]:
        function, role = config.get("FunctionArn", ""), config.get("Role", "")
        with lock:
            if (function, role) not in issued:
                issued[function, role] = iam.open_session(
                    role, config.get("FunctionName", "function")[:64]
                )
            return issued[function, role]

    lambda_runtime.execution_credentials = execution_credentials
    lambda_svc.execution_credentials = execution_credentials
