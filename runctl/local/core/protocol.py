"""The EC2 query protocol, read and written according to botocore's description of the service."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import (
    ListShape,
    OperationModel,
    OperationNotFoundError,
    ServiceModel,
    Shape,
    StructureShape,
)
from botocore.validate import ParamValidator

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"

# Documented limits that botocore's model lacks.
_CLIENT_TOKEN_LIMIT = 64


class ApiError(Exception):
    """A call that the service refuses, with the code that AWS answers."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@cache
def service_model(name: str) -> ServiceModel:
    """Load botocore's model of a service, once."""
    return botocore.session.Session().get_service_model(name)


def operation(service: str, action: str) -> OperationModel:
    """Find an operation, or refuse the action as AWS does."""
    try:
        return service_model(service).operation_model(action)
    except OperationNotFoundError as exc:
        raise ApiError(
            "InvalidAction", f"The action {action} is not valid for this web service."
        ) from exc


def form(body: bytes) -> dict[str, str]:
    """Decode a form body; of a repeated parameter, the last value counts."""
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def read_request(action: str, flat: Mapping[str, str]) -> dict[str, Any]:
    """Convert flattened parameters to the operation's input; refuse unknown ones."""
    shape = operation("ec2", action).input_shape
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if name in {"Action", "Version"}:
            continue
        node = tree
        *path, leaf = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ApiError("UnknownParameter", f"The parameter {name} is not recognized")
        node[leaf] = value
    parsed: dict[str, Any] = _read(shape, tree, "") if shape else {}
    if shape:
        report = ParamValidator().validate(parsed, shape)
        if report.has_errors():
            code = (
                "MissingParameter"
                if "Missing required" in report.generate_report()
                else ("InvalidParameterValue")
            )
            raise ApiError(code, report.generate_report())
    token = str(parsed.get("ClientToken", ""))
    if len(token) > _CLIENT_TOKEN_LIMIT or not token.isascii():
        raise ApiError("InvalidParameterValue", "ClientToken must have at most 64 ASCII characters")
    return parsed


def _input_name(member: Shape, default: str) -> str:
    if "queryName" in member.serialization:
        return str(member.serialization["queryName"])
    if "name" in member.serialization:
        name = str(member.serialization["name"])
        return name[0].upper() + name[1:]
    return default


def _read(shape: Shape, node: Any, where: str) -> Any:
    if isinstance(shape, StructureShape):
        members = {_input_name(m, key): (key, m) for key, m in shape.members.items()}
        if not isinstance(node, dict):
            raise ApiError("InvalidParameterValue", f"{where} is not a structure")
        result = {}
        for name, child in node.items():
            if name not in members:
                raise ApiError(
                    "UnknownParameter",
                    f"The parameter {where + '.' if where else ''}{name} is not recognized",
                )
            key, member = members[name]
            result[key] = _read(member, child, f"{where}.{name}" if where else name)
        return result
    if isinstance(shape, ListShape):
        if not isinstance(node, dict) or not all(key.isdigit() for key in node):
            raise ApiError("InvalidParameterValue", f"{where} is not a numbered list")
        return [_read(shape.member, node[key], f"{where}.{key}") for key in sorted(node, key=int)]
    if isinstance(node, dict):
        raise ApiError("UnknownParameter", f"The parameter {where} has no members")
    return _read_scalar(shape, node, where)


def _read_scalar(shape: Shape, text: str, where: str) -> Any:
    try:
        if shape.type_name in {"integer", "long"}:
            return int(text)
        if shape.type_name in {"double", "float"}:
            return float(text)
        if shape.type_name == "timestamp":
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as exc:
        raise ApiError("InvalidParameterValue", f"{where} has the value {text!r}") from exc
    if shape.type_name == "boolean":
        if text not in {"true", "false"}:
            raise ApiError("InvalidParameterValue", f"{where} is neither true nor false")
        return text == "true"
    # EC2 reports an unknown type where it would launch it, not as an invalid parameter.
    allowed = shape.metadata.get("enum") if shape.name != "InstanceType" else None
    if allowed and text not in allowed:
        raise ApiError("InvalidParameterValue", f"Value ({text}) for parameter {where} is invalid.")
    return text


def render_response(action: str, result: Mapping[str, Any]) -> bytes:
    """Format an operation's result as EC2's XML."""
    shape = operation("ec2", action).output_shape
    inner = "".join(_members(shape, result)) if shape and shape.members else "<return>true</return>"
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">'
        f"<requestId>{uuid.uuid4()}</requestId>{inner}</{action}Response>"
    ).encode()


def render_error(code: str, message: str) -> bytes:
    """Format an error as EC2's XML."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        f"</Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
    ).encode()


def _members(shape: StructureShape, value: Mapping[str, Any]) -> list[str]:
    unknown = set(value) - set(shape.members)
    if unknown:  # a mistake of ours, never of the caller
        raise KeyError(f"{shape.name} has no {sorted(unknown)}")
    return [
        _element(member.serialization.get("name", key), member, value[key])
        for key, member in shape.members.items()
        if value.get(key) is not None
    ]


def _element(name: str, shape: Shape, value: Any) -> str:
    if isinstance(shape, StructureShape):
        return f"<{name}>{''.join(_members(shape, value))}</{name}>"
    if isinstance(shape, ListShape):
        item = shape.member.serialization.get("name", "item")
        content = "".join(_element(item, shape.member, element) for element in value)
        return f"<{name}>{content}</{name}>"
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, datetime):
        return f"<{name}>{stamp(value)}</{name}>"
    return f"<{name}>{escape(_valid_xml(str(value)))}</{name}>"


def _valid_xml(text: str) -> str:
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def stamp(moment: datetime) -> str:
    """Format an instant like EC2, to the second."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
