# ruff: noqa: SLF001 - it reads with ministack's S3 and its interpreter of state machines
"""The items of a Distributed Map: read, selected, and put into batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ministack.services import s3
from ministack.services import stepfunctions as sfn

from runctl.local.core import iam
from runctl.local.core.limits import MAX_STATE_BYTES
from runctl.local.stepfunctions.map_fields import MapFields

_GET, _LIST = "arn:aws:states:::s3:getObject", "arn:aws:states:::s3:listObjectsV2"
_INPUT_TYPES = ("JSON", "JSONL", "CSV")
_FAILED = "States.ItemReaderFailed"


@dataclass(frozen=True)
class ChildInput:
    """The input of a child, as JSON, and how many items it contains."""

    text: str
    items: int


def read_items(fields: MapFields, role: str) -> list[Any]:
    """Return the items of a Distributed Map, from S3 or from its input."""
    reader = fields.state.get("ItemReader")
    if reader is not None:
        items = _read(fields, reader, role)
    elif fields.is_jsonata and "Items" in fields.state:
        items = fields.evaluate(fields.state["Items"])
    else:
        path = fields.state.get("ItemsPath", "$")
        items = sfn._resolve_path_or_ctx(path, fields.effective, fields.context)
    if isinstance(items, list):
        return items
    if reader is not None:
        raise sfn._ExecutionError(_FAILED, "Attempting to map over non-iterable node.")
    error = "States.QueryEvaluationError" if fields.is_jsonata else "States.Runtime"
    raise sfn._ExecutionError(error, f"a Map needs an array of items, not {items!r:.200}")


def _read(fields: MapFields, reader: dict[str, Any], role: str) -> Any:
    config = {
        name: fields.evaluate(value)
        for name, value in (reader.get("ReaderConfig") or {}).items()
        if name not in ("MaxItems", "MaxItemsPath")
    }
    arguments = fields.arguments(reader)
    bucket = str(arguments.get("Bucket", ""))
    resource = reader.get("Resource")
    if resource == _LIST:
        items = _listed(bucket, str(arguments.get("Prefix", "")), config, role)
    elif resource == _GET:
        items = _parsed(_text(bucket, str(arguments.get("Key", "")), role), config)
    else:
        raise sfn._ExecutionError("States.Runtime", f"no ItemReader has the resource {resource}")
    most = fields.number(reader.get("ReaderConfig") or {}, "MaxItems")
    return items[: int(most)] if most and isinstance(items, list) else items


def _listed(bucket: str, prefix: str, config: dict[str, Any], role: str) -> list[Any]:
    facts = {"bucket": [f"arn:aws:s3:::{bucket}"], "prefix": [prefix]}
    if refusal := iam.refusal_of_role(role, "states", "map:listObjectsV2", facts):
        raise sfn._ExecutionError(_FAILED, refusal)
    known = s3._buckets.get(bucket)
    if known is None:
        cause = f"The specified bucket does not exist. (Bucket: {bucket})"
        raise sfn._ExecutionError(_FAILED, cause)
    objects = {key: known["objects"][key] for key in sorted(known["objects"])}
    found = {key: record for key, record in objects.items() if key.startswith(prefix)}
    if config.get("Transformation") == "LOAD_AND_FLATTEN":
        texts = (_text(bucket, key, role) for key in found)
        return [item for text in texts for item in _parsed(text, config)]
    return [
        {
            "Etag": record.get("etag", ""),
            "Key": key,
            "LastModified": sfn._epoch_seconds(record.get("last_modified")),
            "Size": record.get("size", 0),
            "StorageClass": record.get("storage_class") or "STANDARD",
        }
        for key, record in found.items()
    ]


def _text(bucket: str, key: str, role: str) -> str:
    facts = {"object": [f"arn:aws:s3:::{bucket}/{key}"]}
    if refusal := iam.refusal_of_role(role, "states", "map:getObject", facts):
        raise sfn._ExecutionError(_FAILED, refusal)
    status, _, body = s3._get_object(bucket, key, {}, {})
    if status != 200:
        cause = f"The specified key does not exist. (Bucket: {bucket}, Key: {key})"
        raise sfn._ExecutionError(_FAILED, cause)
    return bytes(body).decode("utf-8-sig")


def _parsed(text: str, config: dict[str, Any]) -> Any:
    kind = config.get("InputType", "JSON")
    if kind not in _INPUT_TYPES:
        cause = f"InputType {kind} is not supported by the local cloud"
        raise sfn._ExecutionError("States.Runtime", cause)
    try:
        return sfn._parse_reader_items(text, config)
    except (ValueError, LookupError, TypeError) as exc:
        raise sfn._ExecutionError(_FAILED, f"not {kind} as configured: {exc}") from exc


def child_inputs(fields: MapFields, items: list[Any]) -> list[ChildInput]:
    """Return the inputs of the children: a selected item each, or a batch of them."""
    selected = (fields.select(index, item) for index, item in enumerate(items))
    batcher = fields.state.get("ItemBatcher")
    if batcher is None:
        found = [ChildInput(json.dumps(item), 1) for item in selected]
    else:
        found = list(_batches(fields, batcher, selected))
    for child in found:
        if _bytes_of(child.text) > MAX_STATE_BYTES:
            raise sfn._ExecutionError(
                "States.DataLimitExceeded",
                "The input of a child workflow execution exceeds the maximum number of bytes "
                "service limit.",
            )
    return found


def _batches(
    fields: MapFields, batcher: dict[str, Any], selected: Iterator[Any]
) -> Iterator[ChildInput]:
    most_items = fields.number(batcher, "MaxItemsPerBatch")
    most_bytes = fields.number(batcher, "MaxInputBytesPerBatch") or MAX_STATE_BYTES
    extra = (
        {"BatchInput": fields.evaluate(batcher["BatchInput"])} if "BatchInput" in batcher else {}
    )
    empty = _bytes_of(json.dumps({**extra, "Items": []}))
    batch: list[Any] = []
    size = empty
    for item in selected:
        added = _bytes_of(json.dumps(item)) + 2  # ", "
        is_full = len(batch) == most_items or size + added > most_bytes
        if batch and is_full:
            yield ChildInput(json.dumps({**extra, "Items": batch}), len(batch))
            batch, size = [], empty
        batch.append(item)
        size += added
    if batch:
        yield ChildInput(json.dumps({**extra, "Items": batch}), len(batch))


def _bytes_of(text: str) -> int:
    # As AWS counts it: in UTF-8, not with the escapes of JSON.
    return len(text) if text.isascii() and "\\u" not in text else _bytes_in_utf8(text)


def _bytes_in_utf8(text: str) -> int:
    return len(json.dumps(json.loads(text), ensure_ascii=False).encode())
