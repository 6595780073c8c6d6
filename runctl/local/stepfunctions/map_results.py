# ruff: noqa: SLF001 - it writes with ministack's S3
"""The results of a Distributed Map: its output, or files in S3 with a manifest.

Source: "ResultWriter" in the Step Functions Developer Guide.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ministack.services import s3
from ministack.services import stepfunctions as sfn

from runctl.local.core import iam
from runctl.local.stepfunctions.map_fields import MapFields
from runctl.local.stepfunctions.map_run import Child, MapRun

_PUT = "arn:aws:states:::s3:putObject"
_TRANSFORMATIONS = ("NONE", "COMPACT", "FLATTEN")
_OUTPUT_TYPES = ("JSON", "JSONL")
_FAILED = "States.ResultWriterFailed"
_FILES = {
    "FAILED": ("FAILED", "TIMED_OUT", "ABORTED"),
    "PENDING": ("",),
    "SUCCEEDED": ("SUCCEEDED",),
}


class ResultWriter:
    """The `ResultWriter` of a Map; without one, the results are the output of the Map."""

    def __init__(self, fields: MapFields, role: str) -> None:
        writer = fields.state.get("ResultWriter") or {}
        config = fields.evaluate(writer.get("WriterConfig") or {})
        self.is_exporting = "Resource" in writer
        default = "NONE" if self.is_exporting else "COMPACT"
        self._transformation = _known(config, "Transformation", _TRANSFORMATIONS, default)
        self._kind = _known(config, "OutputType", _OUTPUT_TYPES, "JSON")
        if self.is_exporting:
            if writer["Resource"] != _PUT:
                cause = f"no ResultWriter has the resource {writer['Resource']}"
                raise sfn._ExecutionError("States.Runtime", cause)
            arguments = fields.arguments(writer)
            self._bucket = str(arguments.get("Bucket", ""))
            self._prefix = str(arguments.get("Prefix", "")).strip("/")
            self._check(role)

    def output(self, run: MapRun) -> Any:
        """Return the output of a Map Run that has ended, and write the files if there are any."""
        if self.is_exporting:
            return self._export(run)
        return self._transformed(run.children or [])

    def _check(self, role: str) -> None:
        """Refuse a place that the role may not write to, before any child starts."""
        key = "/".join(filter(None, (self._prefix, "manifest.json")))
        facts = {"object": [f"arn:aws:s3:::{self._bucket}/{key}"]}
        if refusal := iam.refusal_of_role(role, "states", "map:putObject", facts):
            raise sfn._ExecutionError(_FAILED, refusal)
        if self._bucket not in s3._buckets:
            cause = f"The specified bucket does not exist. (Bucket: {self._bucket})"
            raise sfn._ExecutionError(_FAILED, cause)

    def _export(self, run: MapRun) -> dict[str, Any]:
        folder = "/".join(filter(None, (self._prefix, run.arn.rpartition(":")[2])))
        children = run.children or []
        files: dict[str, list[dict[str, Any]]] = {name: [] for name in _FILES}
        for name, statuses in _FILES.items():
            chosen = [child for child in children if child.status in statuses]
            if chosen:
                key = f"{folder}/{name}_0.{self._kind.lower()}"
                size = self._put(key, self._formatted(self._transformed(chosen)))
                files[name].append({"Key": key, "Size": size})
        run.written = sum(child.given.items for child in children)
        manifest = {
            "DestinationBucket": self._bucket,
            "MapRunArn": run.arn,
            "ResultFiles": files,
        }
        key = f"{folder}/manifest.json"
        self._put(key, json.dumps(manifest))
        return {
            "MapRunArn": run.arn,
            "ResultWriterDetails": {"Bucket": self._bucket, "Key": key},
        }

    def _transformed(self, children: Iterable[Child]) -> list[Any]:
        results: list[Any] = []
        for child in children:
            if self._transformation == "NONE" or child.status != "SUCCEEDED":
                results.append(_described(child))
                continue
            output = json.loads(child.execution["output"])
            if self._transformation == "FLATTEN" and isinstance(output, list):
                results += output
            else:
                results.append(output)
        return results

    def _formatted(self, results: list[Any]) -> str:
        if self._kind == "JSON":
            return json.dumps(results)
        return "".join(f"{json.dumps(result)}\n" for result in results)

    def _put(self, key: str, text: str) -> int:
        content = text.encode()
        status, _, body = s3._put_object(self._bucket, key, content, {})
        if status != 200:
            raise sfn._ExecutionError(_FAILED, f"{key}: {bytes(body).decode(errors='replace')}")
        return len(content)


def _known(config: dict[str, Any], name: str, values: tuple[str, ...], default: str) -> str:
    found = str(config.get(name, default))
    if found not in values:
        cause = f"{name} must be one of {', '.join(values)}, not {found!r}"
        raise sfn._ExecutionError("States.Runtime", cause)
    return found


def _described(child: Child) -> dict[str, Any]:
    """Return the record of a child; input and output are JSON in text, as on AWS."""
    if not child.arn:
        return {"Input": child.given.text, "InputDetails": {"Included": True}, "Status": "PENDING"}
    execution = child.execution
    has_succeeded = child.status == "SUCCEEDED"
    described = {
        "Cause": execution.get("cause"),
        "Error": execution.get("error"),
        "ExecutionArn": child.arn,
        "Input": execution["input"],
        "InputDetails": {"Included": True},
        "Name": execution["name"],
        "Output": execution["output"] if has_succeeded else None,
        "OutputDetails": {"Included": True} if has_succeeded else None,
        "RedriveCount": execution.get("redriveCount", 0),
        "RedriveStatus": "NOT_REDRIVABLE" if has_succeeded else "REDRIVABLE_BY_MAP_RUN",
        "RedriveStatusReason": (
            f"Execution is {child.status} and cannot be redriven" if has_succeeded else None
        ),
        "StartDate": execution["startDate"],
        "StateMachineArn": execution["stateMachineArn"],
        "Status": child.status,
        "StopDate": execution["stopDate"],
    }
    return {name: value for name, value in described.items() if value is not None}
