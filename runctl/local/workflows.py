# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""Step Functions where ministack differs from AWS: tokens, heartbeats, stops, nested executions."""

from __future__ import annotations

import contextvars
import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import stepfunctions as sfn

from runctl.local import iam
from runctl.local.actions import REQUIRED
from runctl.local.knobs import Knobs

Execution = dict[str, Any]
_current: contextvars.ContextVar[Execution | None] = contextvars.ContextVar(
    "execution", default=None
)
# The TimeoutSeconds and HeartbeatSeconds of the callback task that the thread is about to wait for.
_bounds: contextvars.ContextVar[dict[str, float | None]] = contextvars.ContextVar("bounds")
_BOUNDS = ("TimeoutSeconds", "HeartbeatSeconds")

_DEFAULT_TIMEOUT_SECONDS = 99_999_999
_WAITS_FOR_TOKEN = ".waitForTaskToken"  # noqa: S105
_MANAGED_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"


class _StoppedError(BaseException):
    """The execution was stopped or timed out: nothing may catch or retry that."""


class _Executions:
    """The stop flags and open task tokens of every execution."""

    def __init__(self) -> None:
        self.stopped: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.tokens: defaultdict[str, set[str]] = defaultdict(set)
        self.closed_tokens: set[str] = set()
        self.machines: dict[str, str] = {}

    def stop(self, arn: str) -> None:
        """Wake up whatever the execution waits for."""
        self.stopped[arn].set()
        for token in list(self.tokens[arn]):
            if task := sfn._task_tokens.get(token):
                task["event"].set()


def install(knobs: Knobs) -> Callable[[str], str | None]:
    """Change ministack's interpreter, once; the result tells which machine made a task token."""
    known = _Executions()
    _run_and_stop(known)
    _sleep_until_stopped(known, knobs)
    _new_token_each_try()
    _wait_for_tokens(known, knobs)
    _answer_stale_tokens(known)
    _honour_output_of_succeed()
    _count_heartbeats_as_timeouts()
    _nest_executions(known)
    _start_idempotently()
    return known.machines.get


def current_execution() -> Execution | None:
    """Tell which execution the calling thread works for."""
    return _current.get()


def role_of(execution: Execution) -> str:
    """Name the role of the execution's state machine."""
    return str(sfn._state_machines[execution["stateMachineArn"]]["roleArn"])


def _run_and_stop(known: _Executions) -> None:
    run, execute_task = sfn._run_execution, sfn._execute_task
    fail, stop = sfn._fail_execution, sfn._stop_execution

    def run_execution(arn: str) -> None:
        execution = sfn._executions.get(arn)
        token = _current.set(execution)
        timer = _limit(arn, execution) if execution else None
        try:
            run(arn)
        except _StoppedError:
            return
        finally:
            if timer:
                timer.cancel()
            _current.reset(token)

    def _limit(arn: str, execution: Execution) -> threading.Timer | None:
        definition = json.loads(sfn._state_machines[execution["stateMachineArn"]]["definition"])
        seconds = definition.get("TimeoutSeconds")
        if not seconds:
            return None
        context = contextvars.copy_context()
        timer = threading.Timer(seconds, context.run, (time_out, arn, execution))
        timer.daemon = True
        timer.start()
        return timer

    def time_out(arn: str, execution: Execution) -> None:
        if execution["status"] != "RUNNING":
            return
        execution.update(status="TIMED_OUT", stopDate=sfn.now_iso())
        sfn._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
        sfn._emit_execution_status_event(execution)
        known.stop(arn)

    def run_task(state: Any, data: Any, execution: Execution, ctx: Any) -> Any:
        token = _current.set(execution)  # branches of Parallel and Map have threads of their own
        try:
            return execute_task(state, data, execution, ctx)
        finally:
            _current.reset(token)

    def fail_execution(execution: Execution, error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":  # a stopped execution stays ABORTED
            fail(execution, error, cause)

    def stop_execution(data: dict[str, Any]) -> Any:
        answer = stop(data)
        arn = data.get("executionArn", "")
        if sfn._executions.get(arn, {}).get("status") == "ABORTED":
            known.stop(arn)
        return answer

    sfn._run_execution, sfn._execute_task = run_execution, run_task
    sfn._fail_execution, sfn._stop_execution = fail_execution, stop_execution


def _sleep_until_stopped(known: _Executions, knobs: Knobs) -> None:
    knobs.wait_scale = sfn._SFN_WAIT_SCALE

    def sleep(seconds: float) -> None:
        execution = _current.get()
        scaled = max(0.0, seconds * knobs.wait_scale)
        if execution is None:
            time.sleep(scaled)
        elif known.stopped[execution["executionArn"]].wait(scaled):
            raise _StoppedError

    sfn._scaled_sleep = sleep


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


def _wait_for_tokens(known: _Executions, knobs: Knobs) -> None:
    def invoke(resource: str, data: Any, token: str, _state: dict[str, Any]) -> Any:
        execution = _current.get() or {"executionArn": ""}
        arn = execution["executionArn"]
        task: dict[str, Any] = {
            "event": threading.Event(),
            "result": None,
            "error": None,
            "heartbeat": None,
        }
        sfn._task_tokens[token] = task
        known.tokens[arn].add(token)
        known.machines[token] = execution.get("stateMachineArn", "")
        try:
            # An error of the integration itself fails the task, it does not wait for a callback.
            sfn._invoke_resource(resource.replace(_WAITS_FOR_TOKEN, ""), data)
            _wait(task, _bounds.get({}), known.stopped[arn], knobs)
        finally:
            sfn._task_tokens.pop(token, None)
            known.tokens[arn].discard(token)
            known.closed_tokens.add(token)
        if error := task["error"]:
            raise sfn._ExecutionError(error.get("Error", "TaskFailed"), error.get("Cause", ""))
        return json.loads(task["result"])

    sfn._invoke_with_callback = invoke


def _wait(
    task: dict[str, Any], bounds: dict[str, float | None], stopped: threading.Event, knobs: Knobs
) -> None:
    """Wait for the callback, the end of patience with silence, or the stop of the execution."""
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
        # The scale may be changed meanwhile: look again every half second.
        task["event"].wait(min(left, 0.5))
    if stopped.is_set():
        raise _StoppedError


def _answer_stale_tokens(known: _Executions) -> None:
    def guarded(answer: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def answer_open_token(data: dict[str, Any]) -> Any:
            if data.get("taskToken") in known.closed_tokens:
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


def _honour_output_of_succeed() -> None:
    apply = sfn._apply_output_path

    def output(state: dict[str, Any], data: Any, ctx: Any = None) -> Any:
        is_jsonata = sfn._state_query_language(state, ctx) == "JSONata"
        if state.get("Type") == "Succeed" and is_jsonata:
            return sfn._apply_jsonata_output(state, data, ctx, default=data)
        return apply(state, data, ctx)

    sfn._apply_output_path = output


def _count_heartbeats_as_timeouts() -> None:
    matches = sfn._error_matches

    def error_matches(names: list[str], error: str) -> bool:
        if error == "States.HeartbeatTimeout":
            return bool({"States.ALL", "States.Timeout", error} & set(names))
        return bool(matches(names, error))

    sfn._error_matches = error_matches


def _nest_executions(known: _Executions) -> None:
    """Run `.sync` children as executions of their own, with history, events and an end."""

    def invoke(resource: str, data: dict[str, Any]) -> dict[str, Any]:
        parent = _current.get()
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
            if parent and known.stopped[parent["executionArn"]].wait(0.05):
                sfn._stop_execution({"executionArn": child["executionArn"]})
                raise _StoppedError
            if not parent:
                time.sleep(0.05)
        if child["status"] != "SUCCEEDED":
            raise sfn._ExecutionError("States.TaskFailed", json.dumps(_told(child, parse=False)))
        return _told(child, parse=resource.endswith(":2"))

    sfn._invoke_nested_start_execution_sync = invoke


def _told(child: Execution, *, parse: bool) -> dict[str, Any]:
    def value(text: str | None) -> Any:
        return json.loads(text) if parse and text else text

    told = {
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
    return {key: one for key, one in told.items() if one is not None}


def _check_nesting(parent: Execution, machine: str) -> None:
    name = machine.rpartition(":")[2]
    arn = parent["executionArn"].rsplit(":", 3)[0]
    account = ":".join(arn.split(":")[3:5])
    facts = {
        "machine": [machine],
        "execution": [f"{arn}:execution:{name}:any"],
        "rule": [f"arn:aws:events:{account}:rule/{_MANAGED_RULE}"],
    }
    for required in REQUIRED["states", "states:startExecution.sync:2"]:
        for resource in iam.resources_of(required, facts):
            if told := iam.denied_to_role(role_of(parent), required.action, resource):
                raise sfn._ExecutionError("StepFunctions.AccessDeniedException", told)


def _start_idempotently() -> None:
    start = sfn._start_execution

    def start_execution(data: dict[str, Any]) -> Any:
        machine = sfn._state_machines.get(data.get("stateMachineArn", ""))
        if machine and data.get("name"):
            prefix = machine["stateMachineArn"].replace(":stateMachine:", ":execution:")
            running = sfn._executions.get(f"{prefix}:{data['name']}")
            if (
                running
                and running["status"] == "RUNNING"
                and running["input"] == data.get("input", "{}")
            ):
                return json_response(
                    {"executionArn": running["executionArn"], "startDate": running["startDate"]}
                )
        return start(data)

    sfn._start_execution = start_execution
