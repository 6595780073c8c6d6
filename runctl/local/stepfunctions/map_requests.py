# ruff: noqa: SLF001 - it answers from ministack's records
"""The requests about Map Runs: ListMapRuns, DescribeMapRun and UpdateMapRun."""

from __future__ import annotations

import json
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import stepfunctions as sfn

from runctl.local.stepfunctions.executions import Execution
from runctl.local.stepfunctions.map_run import MapRun

# The field of UpdateMapRun for each bound.
_BOUNDS = {
    "maxConcurrency": "concurrency",
    "toleratedFailureCount": "failure_count",
    "toleratedFailurePercentage": "failure_percentage",
}


def install() -> None:
    """Answer requests about Map Runs, and hide the state machines of children, once."""
    sfn._list_map_runs, sfn._describe_map_run = _list_runs, _describe_run
    sfn._update_map_run = _update_run
    _hide_machines_of_children()


def add(run: MapRun) -> None:
    """Record a Map Run."""
    sfn._map_runs[run.arn] = {"_run": run}


def runs_of(execution: Execution) -> list[MapRun]:
    """Return the Map Runs that an execution has started, in their order."""
    runs = (record["_run"] for record in list(sfn._map_runs.values()))
    return [run for run in runs if run.parent["executionArn"] == execution["executionArn"]]


def _list_runs(request: dict[str, Any]) -> Any:
    arn = request.get("executionArn")
    execution = sfn._executions.get(arn)
    if execution is None:
        return error_response_json(
            "ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'", 400
        )
    runs = [
        {
            "executionArn": arn,
            "mapRunArn": run.arn,
            "stateMachineArn": run.machine,
            "startDate": run.started_at,
            **({"stopDate": run.stopped_at} if run.stopped_at else {}),
        }
        for run in runs_of(execution)
    ]
    return json_response({"mapRuns": runs})


def _find(request: dict[str, Any]) -> MapRun | None:
    record = sfn._map_runs.get(request.get("mapRunArn"))
    return record["_run"] if record else None


def _does_not_exist(request: dict[str, Any]) -> Any:
    arn = request.get("mapRunArn")
    return error_response_json("ResourceNotFound", f"Map Run Does Not Exist: '{arn}'", 400)


def _describe_run(request: dict[str, Any]) -> Any:
    run = _find(request)
    return json_response(run.described()) if run else _does_not_exist(request)


def _update_run(request: dict[str, Any]) -> Any:
    run = _find(request)
    if run is None:
        return _does_not_exist(request)
    if run.status != "RUNNING":
        return error_response_json("ValidationException", "Map Run is not running", 400)
    changes = {_BOUNDS[name]: request[name] for name in _BOUNDS if name in request}
    if not changes:
        return error_response_json("ValidationException", "No bound of the Map Run is given", 400)
    run.update(**changes)
    return json_response({})


def _hide_machines_of_children() -> None:
    listed, started, deleted = (
        sfn._list_state_machines,
        sfn._start_execution,
        sfn._delete_state_machine,
    )

    def list_state_machines(request: dict[str, Any]) -> Any:
        answer = json.loads(listed(request)[2])
        machines = [each for each in answer["stateMachines"] if "/" not in each["name"]]
        return json_response({**answer, "stateMachines": machines})

    def start_execution(request: dict[str, Any]) -> Any:
        if "/" in request.get("stateMachineArn", ""):
            return error_response_json(
                "ValidationException",
                "A qualified state machine ARN that refers to a Distributed Map state cannot be "
                "started",
                400,
            )
        return started(request)

    def delete_state_machine(request: dict[str, Any]) -> Any:
        prefix = f"{request.get('stateMachineArn')}/"
        for arn in [arn for arn in sfn._state_machines if arn.startswith(prefix)]:
            deleted({"stateMachineArn": arn})
        return deleted(request)

    sfn._list_state_machines, sfn._start_execution = list_state_machines, start_execution
    sfn._delete_state_machine = delete_state_machine
