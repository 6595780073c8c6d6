# ruff: noqa: SLF001 - it adds an integration to ministack's interpreter of state machines
"""Tasks that start builds, and that wait for them with `.sync`.

Source: "Manage AWS CodeBuild builds with Step Functions" in the Step Functions Developer Guide.
That a failed build is the cause of the error, and that times are milliseconds, are assumptions.
"""

from __future__ import annotations

import json
from typing import Any

from ministack.services import stepfunctions as sfn

from runctl.local.codebuild.api import Builds
from runctl.local.core import iam, limits, protocol, records
from runctl.local.core.protocol import ApiError
from runctl.local.stepfunctions.executions import (
    Execution,
    StopFlags,
    StoppedError,
    current_execution,
    role_of,
)
from runctl.local.stepfunctions.timeouts import is_abandoned

_PREFIX = "arn:aws:states:::codebuild:"
_START, _START_AND_WAIT = "startBuild", "startBuild.sync"
_MANAGED_RULE = "StepFunctionsGetEventForCodeBuildStartBuildRule"
_POLL_SECONDS = 0.1


def install(stop_flags: StopFlags, builds: Builds) -> None:
    """Let tasks start builds, once."""

    def integrate(resource: str, data: dict[str, Any]) -> dict[str, Any]:
        action = resource.removeprefix(_PREFIX)
        if action not in {_START, _START_AND_WAIT}:
            raise sfn._ExecutionError(
                "States.Runtime", f"{resource} is not supported by the local cloud"
            )
        request = _request(data)
        execution = current_execution()
        if execution:
            _check_role(execution, action, str(request.get("projectName", "")))
        try:
            build = builds.start(request)
        except ApiError as exc:
            raise sfn._ExecutionError(f"CodeBuild.{exc.code}", exc.message) from exc
        if action == _START_AND_WAIT:
            build = _wait(builds, build["id"], execution, stop_flags)
            if build["buildStatus"] != "SUCCEEDED":
                raise sfn._ExecutionError("States.TaskFailed", json.dumps(_described(build)))
        return _described(build)

    sfn._SERVICE_DISPATCH[_PREFIX] = integrate


def _request(data: dict[str, Any]) -> dict[str, Any]:
    """Return the request in the spelling of the API; refuse unknown parameters."""
    request: dict[str, Any] = sfn._pascal_to_camel(data)
    shape = protocol.operation("codebuild", "StartBuild").input_shape
    known = shape.members if shape else {}
    for name in data:
        if name[:1].islower() or name[:1].lower() + name[1:] not in known:
            raise sfn._ExecutionError(
                "States.Runtime", f"The field '{name}' is not supported by Step Functions"
            )
    try:
        limits.check("codebuild", "StartBuild", request)
    except ApiError as exc:
        raise sfn._ExecutionError(f"CodeBuild.{exc.code}", exc.message) from exc
    return request


def _wait(
    builds: Builds, build_id: str, execution: Execution | None, stop_flags: StopFlags
) -> dict[str, Any]:
    """Wait until a build has ended; stop it when the task or its execution has ended."""
    stopped = stop_flags.stopped(execution or {"executionArn": ""})
    while not (build := builds.find(build_id))["buildComplete"]:
        if stopped.wait(_POLL_SECONDS) or is_abandoned():
            builds.stop({"id": build_id})
            raise StoppedError
    return build


def _described(build: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = sfn._convert_keys_to_sfn_convention(
        {"build": _with_milliseconds(build)}
    )
    return described


def _with_milliseconds(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_milliseconds(element) for element in value]
    if not isinstance(value, dict):
        return value
    return {
        name: int(inner * 1000) if name in {"startTime", "endTime"} else _with_milliseconds(inner)
        for name, inner in value.items()
    }


def _check_role(execution: Execution, action: str, project: str) -> None:
    prefix = f"{records.region()}:{records.account_id()}"
    facts = {
        "project": [f"arn:aws:codebuild:{prefix}:project/{project.rpartition('/')[2]}"],
        "rule": [f"arn:aws:events:{prefix}:rule/{_MANAGED_RULE}"],
    }
    if refusal := iam.refusal_of_role(role_of(execution), "states", f"codebuild:{action}", facts):
        raise sfn._ExecutionError("CodeBuild.AccessDeniedException", refusal)
