# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""Task tokens and heartbeats where ministack differs from AWS: new for every try, and counted."""

from __future__ import annotations

import contextvars
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import stepfunctions as sfn

from runctl.local.core.knobs import Knobs
from runctl.local.stepfunctions.executions import StopFlags, StoppedError, current_execution

# TimeoutSeconds and HeartbeatSeconds of the callback task for which the thread will wait.
_bounds: contextvars.ContextVar[dict[str, float | None]] = contextvars.ContextVar("bounds")
_BOUNDS = ("TimeoutSeconds", "HeartbeatSeconds")

_DEFAULT_TIMEOUT_SECONDS = 99_999_999
_WAITS_FOR_TOKEN = ".waitForTaskToken"  # noqa: S105


def install(stop_flags: StopFlags, knobs: Knobs) -> Callable[[str], str | None]:
    """Change ministack's interpreter, once; the result maps a task token to its state machine."""
    closed: set[str] = set()
    machines: dict[str, str] = {}
    _new_token_each_try()
    _wait_for_tokens(stop_flags, knobs, closed=closed, machines=machines)
    _answer_stale_tokens(closed)
    _count_heartbeats_as_timeouts()
    return machines.get


def _new_token_each_try() -> None:
    arguments, parameters = sfn._apply_jsonata_arguments, sfn._apply_parameters

    def renewed(apply: Callable[..., Any]) -> Callable[..., Any]:
        def apply_with_new_token(state: dict[str, Any], data: Any, ctx: Any = None) -> Any:
            if ctx and _WAITS_FOR_TOKEN in state.get("Resource", ""):
                ctx["Task"] = {"Token": str(uuid.uuid4())}
                _bounds.set({name: _seconds(state, name, data, ctx) for name in _BOUNDS})
            return apply(state, data, ctx)

        return apply_with_new_token

    sfn._apply_jsonata_arguments = renewed(arguments)
    sfn._apply_parameters = renewed(parameters)


def _seconds(state: dict[str, Any], name: str, data: Any, ctx: Any) -> float | None:
    """Return a bound of a task, which may be an expression."""
    value = state.get(name)
    if sfn._state_query_language(state, ctx) == "JSONata":
        value = sfn._apply_jsonata_template(value, data, ctx)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise sfn._ExecutionError(
            "States.QueryEvaluationError", f"{name} must be a positive whole number, not {value!r}"
        )
    return float(value)


def _wait_for_tokens(
    stop_flags: StopFlags, knobs: Knobs, *, closed: set[str], machines: dict[str, str]
) -> None:
    def invoke(resource: str, data: Any, token: str, _state: dict[str, Any]) -> Any:
        execution = current_execution() or {"executionArn": ""}
        task: dict[str, Any] = {
            "event": threading.Event(),
            "result": None,
            "error": None,
            "heartbeat": None,
        }
        sfn._task_tokens[token] = task
        stop_flags.tokens(execution).add(token)
        machines[token] = execution.get("stateMachineArn", "")
        try:
            # An error of the integration itself fails the task, instead of waiting for a callback.
            sfn._invoke_resource(resource.replace(_WAITS_FOR_TOKEN, ""), data)
            _wait(task, _bounds.get({}), stop_flags.stopped(execution), knobs)
        finally:
            sfn._task_tokens.pop(token, None)
            stop_flags.tokens(execution).discard(token)
            closed.add(token)
        if error := task["error"]:
            raise sfn._ExecutionError(error.get("Error", "TaskFailed"), error.get("Cause", ""))
        return json.loads(task["result"])

    sfn._invoke_with_callback = invoke


def _wait(
    task: dict[str, Any], bounds: dict[str, float | None], stopped: threading.Event, knobs: Knobs
) -> None:
    """Wait for the callback, a timeout, or the stop of the execution."""
    started = last_beat = time.monotonic()
    timeout: float = bounds.get("TimeoutSeconds") or _DEFAULT_TIMEOUT_SECONDS
    beat_within = bounds.get("HeartbeatSeconds")
    seen = None
    while not task["event"].is_set():
        silence = beat_within * knobs.heartbeat_scale if beat_within else timeout
        now = time.monotonic()
        if task["heartbeat"] != seen:
            seen, last_beat = task["heartbeat"], now
        if now - started >= timeout:
            raise sfn._ExecutionError("States.Timeout", "The task timed out.")
        if now - last_beat >= silence:
            raise sfn._ExecutionError("States.HeartbeatTimeout", "No heartbeat in time.")
        left = min(started + timeout, last_beat + silence) - now
        # The scale may change meanwhile: check every half second.
        task["event"].wait(min(left, 0.5))
    if stopped.is_set():
        raise StoppedError


def _answer_stale_tokens(closed: set[str]) -> None:
    def guarded(answer: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def answer_open_token(data: dict[str, Any]) -> Any:
            if data.get("taskToken") in closed:
                return error_response_json("TaskTimedOut", "The task has ended.", 400)
            return answer(data)

        return answer_open_token

    def beat(data: dict[str, Any]) -> Any:
        task = sfn._task_tokens.get(data.get("taskToken"))
        if task is None:
            return error_response_json("TaskDoesNotExist", "There is no such task.", 400)
        task["heartbeat"] = time.monotonic()
        return json_response({})

    sfn._send_task_success = guarded(sfn._send_task_success)
    sfn._send_task_failure = guarded(sfn._send_task_failure)
    sfn._send_task_heartbeat = guarded(beat)


def _count_heartbeats_as_timeouts() -> None:
    matches = sfn._error_matches

    def error_matches(names: list[str], error: str) -> bool:
        if error == "States.HeartbeatTimeout":
            return bool({"States.ALL", "States.Timeout", error} & set(names))
        return bool(matches(names, error))

    sfn._error_matches = error_matches
