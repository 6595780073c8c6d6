"""Sizes and names that AWS refuses but ministack accepts, for calls that ministack answers.

The bounds of single fields come from botocore's models, the others from AWS's documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from runctl.local.core.protocol import ApiError, operation

# By the name in a request's signature.
SERVICES: Mapping[str, str] = {
    "states": "stepfunctions",
    "logs": "logs",
    "events": "events",
    "codebuild": "codebuild",
}
MAX_STATE_BYTES = 256 * 1024
_MAX_LOG_BATCH_BYTES, _LOG_EVENT_OVERHEAD = 1024 * 1024, 26
_MAX_LOG_SPAN_MS = 24 * 3600 * 1000
_MAX_EVENTS_BYTES = 1024 * 1024
_EVENT_TIME_BYTES = 14
_MAX_STANDARD_PARAMETER = 4096
_NOT_IN_A_NAME = re.compile(
    r"""[\s<>{}\[\]?*"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]"""
)
_REFUSED_AS = {
    "logs": "InvalidParameterException",
    "ecr": "InvalidParameterException",
    "codebuild": "InvalidInputException",
}


def check(service: str, action: str, request: Mapping[str, Any]) -> None:
    """Refuse a request as the service does; `service` is botocore's name for it."""
    shape = operation(service, action).input_shape
    if shape is not None:
        for problem in broken_bounds(shape, request):
            raise ApiError(
                _REFUSED_AS.get(service, "ValidationException"),
                f"1 validation error detected: {problem}",
            )
    if special := _SPECIAL.get((service, action)):
        special(request)


def broken_bounds(shape: Shape, value: Any, where: str = "") -> Iterator[str]:
    """Yield which values violate the lengths, ranges, patterns and enums of the model."""
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from broken_bounds(member, value[name], f"{where}.{name}" if where else name)
        return
    if isinstance(shape, ListShape) and isinstance(value, list):
        yield from _outside(shape, len(value), where, "length")
        for number, element in enumerate(value, 1):
            yield from broken_bounds(shape.member, element, f"{where}.{number}.member")
        return
    if isinstance(shape, MapShape) and isinstance(value, Mapping):
        yield from _outside(shape, len(value), where, "length")
        return
    if isinstance(value, str):
        yield from _wrong_text(shape, value, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _outside(shape, value, where, "value")


def _wrong_text(shape: Shape, value: str, where: str) -> Iterator[str]:
    yield from _outside(shape, len(value), where, "length")
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        yield f"Value '{value}' at '{where}' must satisfy enum value set: {list(allowed)}"
    pattern = shape.metadata.get("pattern")
    # Python lacks classes such as \p{L}.
    if pattern and r"\p" not in pattern and not re.fullmatch(pattern, value):
        yield f"Value '{value}' at '{where}' must satisfy regular expression pattern: {pattern}"


def _outside(shape: Shape, number: float, where: str, what: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and number < least:
        yield f"Value at '{where}' must have {what} greater than or equal to {least}"
    if most is not None and number > most:
        yield f"Value at '{where}' must have {what} less than or equal to {most}"


def _check_start(request: Mapping[str, Any]) -> None:
    name = request.get("name", "")
    if found := _NOT_IN_A_NAME.search(name):
        raise ApiError("InvalidName", f"Invalid Name: '{name}' (it has {found[0]!r})")
    text = request.get("input", "{}")
    _check_bytes("input", text)
    try:
        json.loads(text)
    except ValueError as exc:
        raise ApiError(
            "InvalidExecutionInput", f"Invalid State Machine Execution Input: {exc}"
        ) from exc


def _check_parameter(request: Mapping[str, Any]) -> None:
    if request.get("Tier", "Standard") == "Standard" and (
        len(request.get("Value", "").encode()) > _MAX_STANDARD_PARAMETER
    ):
        raise ApiError(
            "ValidationException",
            "Standard tier parameters support a maximum parameter value of "
            f"{_MAX_STANDARD_PARAMETER} characters.",
        )


def _check_bytes(field: str, text: str) -> None:
    """Refuse a document longer, in UTF-8, than the model's bound, which counts characters."""
    if len(text.encode()) > MAX_STATE_BYTES:
        raise ApiError(
            "ValidationException",
            f"1 validation error detected: Value at '{field}' failed to satisfy constraint: Member "
            f"must have length less than or equal to {MAX_STATE_BYTES}",
        )


def _check_log_batch(request: Mapping[str, Any]) -> None:
    events = request.get("logEvents", [])
    size = sum(len(event["message"].encode()) + _LOG_EVENT_OVERHEAD for event in events)
    if size > _MAX_LOG_BATCH_BYTES:
        raise ApiError(
            "InvalidParameterException",
            f"Upload too large: {size} bytes exceeds limit of {_MAX_LOG_BATCH_BYTES}",
        )
    times = [event["timestamp"] for event in events]
    if times != sorted(times):
        raise ApiError(
            "InvalidParameterException",
            "Log events in a single PutLogEvents request must be in chronological order.",
        )
    if times and times[-1] - times[0] > _MAX_LOG_SPAN_MS:
        raise ApiError(
            "InvalidParameterException",
            "The batch of log events in a single PutLogEvents request cannot span more than 24 "
            "hours.",
        )


def _check_events(request: Mapping[str, Any]) -> None:
    size = sum(_event_bytes(entry) for entry in request.get("Entries", []))
    if size >= _MAX_EVENTS_BYTES:
        raise ApiError(
            "ValidationException",
            "Total size of the entries in the request is over the limit.",
        )


def _event_bytes(entry: Mapping[str, Any]) -> int:
    texts = [entry.get(name) or "" for name in ("Source", "DetailType", "Detail")]
    texts += entry.get("Resources") or []
    time = _EVENT_TIME_BYTES if "Time" in entry else 0
    return time + sum(len(text.encode()) for text in texts)


_SPECIAL: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], None]] = {
    ("stepfunctions", "StartExecution"): _check_start,
    ("stepfunctions", "StartSyncExecution"): _check_start,
    ("stepfunctions", "SendTaskSuccess"): lambda request: _check_bytes(
        "output", request.get("output", "")
    ),
    ("ssm", "PutParameter"): _check_parameter,
    ("logs", "PutLogEvents"): _check_log_batch,
    ("events", "PutEvents"): _check_events,
}
