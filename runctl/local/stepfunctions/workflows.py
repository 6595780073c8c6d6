# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""Step Functions where ministack differs from AWS: how executions run, stop, time out and start."""

from __future__ import annotations

import contextlib
import contextvars
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import json_response
from ministack.services import stepfunctions as sfn

from runctl.local.codebuild.api import Builds
from runctl.local.core.knobs import Knobs
from runctl.local.stepfunctions import (
    build_tasks,
    definitions,
    distributed_maps,
    expressions,
    map_requests,
    nested_executions,
    redrive,
    state_tests,
    task_tokens,
    timeouts,
)
from runctl.local.stepfunctions.executions import (
    Execution,
    StopFlags,
    StoppedError,
    current_execution,
    definition_of,
    walk,
    working_for,
)

_MAX_EVENTS = 25_000


def install(knobs: Knobs, builds: Builds) -> Callable[[str], str | None]:
    """Change ministack's interpreter, once; the result maps a task token to its state machine."""
    stop_flags = StopFlags()
    _run_and_stop(stop_flags)
    _sleep_until_stopped(stop_flags, knobs)
    machine_of = task_tokens.install(stop_flags, knobs)
    _honor_output_of_succeed()
    nested_executions.install(stop_flags)
    distributed_maps.install(stop_flags)
    expressions.install()
    definitions.install()
    timeouts.install()
    build_tasks.install(stop_flags, builds)
    _start_idempotently()
    _describe_the_definition_of_an_execution()
    redrive.install()
    state_tests.install()
    return machine_of


def _run_and_stop(stop_flags: StopFlags) -> None:  # noqa: C901 - seven short functions that share state
    execute_task, add_event = sfn._execute_task, sfn._add_event
    fail, stop = sfn._fail_execution, sfn._stop_execution

    def run_execution(arn: str) -> None:
        execution = sfn._executions.get(arn)
        if execution is None:
            return
        timer = _limit(execution)
        try:
            with contextlib.suppress(StoppedError), working_for(execution):
                walk(execution)
        finally:
            if timer:
                timer.cancel()

    def _limit(execution: Execution) -> threading.Timer | None:
        seconds = (definition_of(execution) or {}).get("TimeoutSeconds")
        if not seconds:
            return None
        context = contextvars.copy_context()
        timer = threading.Timer(seconds, context.run, (time_out, execution))
        timer.daemon = True
        timer.start()
        return timer

    def time_out(execution: Execution) -> None:
        if execution["status"] != "RUNNING":
            return
        _abort_maps(execution)
        execution.update(status="TIMED_OUT", stopDate=sfn.now_iso())
        add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
        sfn._emit_execution_status_event(execution)
        stop_flags.stop(execution)

    def run_task(state: Any, data: Any, execution: Execution, ctx: Any) -> Any:
        with working_for(execution):  # branches of Parallel and Map have their own threads
            return execute_task(state, data, execution, ctx)

    def fail_execution(execution: Execution, error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":  # a stopped execution stays ABORTED
            fail(execution, error, cause)

    def stop_execution(data: dict[str, Any]) -> Any:
        execution = sfn._executions.get(data.get("executionArn", ""))
        if execution and execution["status"] == "RUNNING":
            _abort_maps(execution)
        answer = stop(data)
        if execution and execution["status"] == "ABORTED":
            stop_flags.stop(execution)
        return answer

    def note_while_running(execution: Execution, kind: str, details: Any = None) -> Any:
        # A function's answer after the stop does not enter the history.
        if execution["status"] != "RUNNING" and not kind.startswith("Execution"):
            raise StoppedError
        if len(execution["events"]) >= _MAX_EVENTS - 1 and not kind.startswith("Execution"):
            fail_execution(
                execution,
                "States.Runtime",
                f"The execution reached the maximum number of history events ({_MAX_EVENTS}).",
            )
            stop_flags.stop(execution)
            raise StoppedError
        return add_event(execution, kind, details)

    sfn._run_execution, sfn._execute_task = run_execution, run_task
    sfn._fail_execution, sfn._stop_execution = fail_execution, stop_execution
    sfn._add_event = note_while_running


def _abort_maps(execution: Execution) -> None:
    """Record that the Map Runs of an execution end with it."""
    for run in map_requests.runs_of(execution):
        if run.status == "RUNNING":
            sfn._add_event(execution, "MapRunAborted")
            sfn._add_event(execution, "MapStateAborted")


def _sleep_until_stopped(stop_flags: StopFlags, knobs: Knobs) -> None:
    knobs.wait_scale = sfn._SFN_WAIT_SCALE

    def sleep(seconds: float) -> None:
        execution = current_execution()
        scaled = max(0.0, seconds * knobs.wait_scale)
        if execution is None:
            time.sleep(scaled)
        elif stop_flags.stopped(execution).wait(scaled):
            raise StoppedError

    sfn._scaled_sleep = sleep


def _honor_output_of_succeed() -> None:
    apply = sfn._apply_output_path

    def output(state: dict[str, Any], data: Any, ctx: Any = None) -> Any:
        is_jsonata = sfn._state_query_language(state, ctx) == "JSONata"
        if state.get("Type") == "Succeed" and is_jsonata:
            return sfn._apply_jsonata_output(state, data, ctx, default=data)
        return apply(state, data, ctx)

    sfn._apply_output_path = output


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


def _describe_the_definition_of_an_execution() -> None:
    """Describe the definition that an execution began with, not one deployed since."""
    describe = sfn._describe_state_machine_for_execution

    def describe_for_execution(data: Mapping[str, Any]) -> Any:
        status, headers, body = describe(data)
        if status != 200:
            return status, headers, body
        definition = definition_of(sfn._executions[data["executionArn"]])
        return json_response({**json.loads(body), "definition": json.dumps(definition)})

    sfn._describe_state_machine_for_execution = describe_for_execution
