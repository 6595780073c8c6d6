# ruff: noqa: SLF001 - it walks with ministack's interpreter of state machines
"""Executions of state machines: which one a thread works for, its position, and its stop."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from ministack.services import stepfunctions as sfn

from runctl.local.core.limits import MAX_STATE_BYTES

logger = logging.getLogger(__name__)

# The record of an execution. Each redrive makes a new record under the same ARN, so that threads
# that still work for the previous one find it ended, and change nothing.
Execution = dict[str, Any]
_Key = tuple[str, int]

_current: contextvars.ContextVar[Execution | None] = contextvars.ContextVar(
    "execution", default=None
)
_TRANSFORMS = {
    "Pass": "_execute_pass",
    "Choice": "_execute_choice",
    "Wait": "_execute_wait",
}
_WORKS = {"Task": "_execute_task", "Parallel": "_execute_parallel", "Map": "_execute_map"}


class _Shared(dict[str, Any]):
    """A part of a context that its copies share: each iteration of a Map copies its context."""

    def __deepcopy__(self, _memo: Any) -> _Shared:
        return self


class StoppedError(BaseException):
    """The execution was stopped or timed out: nothing may catch or retry that."""


class StopFlags:
    """The stop flags and open task tokens of executions, one set per record."""

    def __init__(self) -> None:
        self._stopped: defaultdict[_Key, threading.Event] = defaultdict(threading.Event)
        self._tokens: defaultdict[_Key, set[str]] = defaultdict(set)
        self._actions: defaultdict[_Key, list[Callable[[], None]]] = defaultdict(list)

    def stopped(self, execution: Execution) -> threading.Event:
        """Return the event that is set once the execution has ended early."""
        return self._stopped[_key(execution)]

    def tokens(self, execution: Execution) -> set[str]:
        """Return the task tokens that the execution waits for."""
        return self._tokens[_key(execution)]

    def when_stopped(self, execution: Execution, act: Callable[[], None]) -> None:
        """Also do something once the execution has ended early."""
        self._actions[_key(execution)].append(act)

    def forget_actions(self, execution: Execution) -> None:
        """Forget what to do after an early end; the execution has ended."""
        self._actions.pop(_key(execution), None)

    def stop(self, execution: Execution) -> None:
        """Wake up whatever the execution waits for."""
        self.stopped(execution).set()
        for act in list(self._actions.get(_key(execution), [])):
            act()
        for token in list(self.tokens(execution)):
            if task := sfn._task_tokens.get(token):
                task["event"].set()


def _key(execution: Execution) -> _Key:
    return execution["executionArn"], execution.get("redriveCount", 0)


def current_execution() -> Execution | None:
    """Return the execution that the calling thread works for."""
    return _current.get()


@contextlib.contextmanager
def working_for(execution: Execution | None) -> Iterator[None]:
    """Make the calling thread work for an execution."""
    token = _current.set(execution)
    try:
        yield
    finally:
        _current.reset(token)


def role_of(execution: Execution) -> str:
    """Return the role of the execution's state machine."""
    machine, _, _ = execution["stateMachineArn"].partition("/")  # a child's is NAME/LABEL
    return str(sfn._state_machines[machine]["roleArn"])


def definition_of(execution: Execution) -> dict[str, Any] | None:
    """Return the definition that the execution began with, which a redrive continues with.

    None if the state machine was deleted.
    """
    machine = sfn._state_machines.get(execution["stateMachineArn"])
    if machine is None:
        return None
    definition: dict[str, Any] = json.loads(
        execution.setdefault("definition", machine["definition"])
    )
    return definition


def walk(execution: Execution) -> None:
    """Go from state to state until the execution has ended, from its current position."""
    try:
        definition = definition_of(execution)
        if definition is None:
            raise sfn._ExecutionError("StateMachineDeleted", "State machine no longer exists")
        start = {"state": definition["StartAt"], "input": execution["input"], "variables": {}}
        _walk(execution, definition, execution.get("position") or start)
    except sfn._ExecutionError as exc:
        sfn._fail_execution(execution, exc.error, exc.cause)
    except Exception as exc:
        logger.exception("%s failed", execution["executionArn"])
        sfn._fail_execution(execution, "States.Runtime", str(exc))


def _walk(execution: Execution, definition: dict[str, Any], position: dict[str, Any]) -> None:
    context = _context(execution, definition, copy.deepcopy(position["variables"]))
    name, data = position["state"], json.loads(position["input"])
    # A Map in the first state after a redrive continues its run.
    execution["resumes"] = "position" in execution
    while name:
        # What a redrive starts with, whatever happens in the state.
        execution["position"] = {
            "state": name,
            "input": json.dumps(data),
            "variables": copy.deepcopy(context["variables"]),
        }
        state = definition["States"].get(name)
        if state is None:
            raise sfn._ExecutionError("States.Runtime", f"State '{name}' not found in definition")
        context["State"] = {"Name": name, "EnteredTime": sfn.now_iso(), "RetryCount": 0}
        _note(execution, state, "Entered", name=name, input=json.dumps(data))
        data, after = _pass_through(execution, state, data, context)
        _check_size(name, data)
        _note(execution, state, "Exited", name=name, output=json.dumps(data))
        execution["resumes"] = False
        name = after
    if execution["status"] == "RUNNING":
        output = json.dumps(data)
        execution.update(status="SUCCEEDED", output=output, stopDate=sfn.now_iso())
        details = {"executionSucceededEventDetails": {"output": output}}
        sfn._add_event(execution, "ExecutionSucceeded", details)
        sfn._emit_execution_status_event(execution)


def _context(
    execution: Execution, definition: dict[str, Any], variables: dict[str, Any]
) -> dict[str, Any]:
    arn = execution["stateMachineArn"]
    told = {
        "Id": execution["executionArn"],
        "Input": json.loads(execution["input"]),
        "Name": execution["name"],
        "RoleArn": role_of(execution),
        "StartTime": execution["startDate"],
        "RedriveCount": execution.get("redriveCount", 0),
    }
    if redriven := execution.get("redriveDate"):
        told["RedriveTime"] = redriven
    return {
        "QueryLanguage": definition.get("QueryLanguage", "JSONPath"),
        "Execution": _Shared(told),
        "StateMachine": {"Id": arn, "Name": arn.rpartition(":")[2]},
        "variables": variables,
    }


def _check_size(name: str, data: Any) -> None:
    # No Catch of the state catches it: it fails the execution.
    if len(json.dumps(data, ensure_ascii=False).encode()) > MAX_STATE_BYTES:
        raise sfn._ExecutionError(
            "States.DataLimitExceeded",
            f"The state/task '{name}' returned a result with a size exceeding the maximum number "
            "of bytes service limit.",
        )


def _note(execution: Execution, state: dict[str, Any], what: str, **details: str) -> None:
    key = f"state{what}EventDetails"
    sfn._add_event(execution, f"{state.get('Type')}State{what}", {key: details})


def _pass_through(
    execution: Execution, state: dict[str, Any], data: Any, context: dict[str, Any]
) -> tuple[Any, str | None]:
    """Execute a state; return its output and the name of the next one."""
    kind = state.get("Type", "")
    if kind == "Succeed":
        data = sfn._apply_input_path(state, data, context)
        return sfn._apply_output_path(state, data, context), None
    if kind == "Fail":
        raise sfn._ExecutionError(*sfn._fail_state_error(state, data, context))
    if kind in _WORKS:
        output, after = getattr(sfn, _WORKS[kind])(state, data, execution, context)
    elif kind in _TRANSFORMS:
        output, after = getattr(sfn, _TRANSFORMS[kind])(state, data, context)
    else:
        raise sfn._ExecutionError("States.Runtime", f"Unknown state type: {kind}")
    return output, after
