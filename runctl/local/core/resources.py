"""The resources against which calls are checked, where ministack's choice differs from AWS's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ministack.core import iam_actions

_ON_LOG_STREAM = {"CreateLogStream", "PutLogEvents", "GetLogEvents"}
_ON_BUILDS = {"BatchGetBuilds": "ids", "BatchDeleteBuilds": "ids", "StopBuild": "id"}
_BY_TOKEN = {"SendTaskSuccess", "SendTaskFailure", "SendTaskHeartbeat"}


def install(machine_of: Callable[[str], str | None]) -> None:
    """Change ministack's choice, once; `machine_of` returns the state machine of a task token."""
    choose = iam_actions.extract_resource_arn

    def resource_arn(
        service: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query: dict[str, Any],
        region: str,
        account: str,
    ) -> str:
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        if service == "logs" and action in _ON_LOG_STREAM:
            asked = json.loads(body)
            group, stream = asked.get("logGroupName", ""), asked.get("logStreamName", "")
            return f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:{stream}"
        if service == "states" and action in _BY_TOKEN:
            machine = machine_of(json.loads(body).get("taskToken", ""))
            if machine:
                return machine
        # list_awsidentityandaccessmanagement.html: it is checked on the profile
        if service == "iam" and _parameter(query, "Action") == "GetInstanceProfile":
            profile = _parameter(query, "InstanceProfileName")
            return f"arn:aws:iam::{account}:instance-profile/{profile}"
        if service == "codebuild" and action in _ON_BUILDS:
            named = json.loads(body).get(_ON_BUILDS[action]) or ""
            build = str(named[0] if isinstance(named, list) and named else named)
            project = build.rpartition(":build/")[2].partition(":")[0]
            return f"arn:aws:codebuild:{region}:{account}:project/{project}"
        chosen: str = choose(service, method, path, headers, body, query, region, account)
        return chosen

    iam_actions.extract_resource_arn = resource_arn


def _parameter(query: dict[str, Any], name: str) -> str:
    """Return a parameter of a request, of which ministack has text or a list."""
    value = query.get(name) or ""
    return str(value[0] if isinstance(value, list) else value)
