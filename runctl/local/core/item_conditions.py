# ruff: noqa: SLF001 - its only hooks
"""The condition keys of requests to DynamoDB, of which ministack knows only some.

`dynamodb:LeadingKeys` are the partition keys that a request names, and `dynamodb:Attributes` the
attributes of the top level, keys included, that any of its expressions names. Source: "Using IAM
policy conditions for fine-grained access control" in the Amazon DynamoDB Developer Guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ministack.core import iam_actions
from ministack.services import dynamodb

_EXPRESSIONS = (
    "KeyConditionExpression", "UpdateExpression", "ConditionExpression", "FilterExpression",
    "ProjectionExpression",
)  # fmt: skip
_TRANSACTION = ("Put", "Update", "Delete", "Get", "ConditionCheck")
_EQUALITY = re.compile(r"(?P<name>[#\w]+)\s*=\s*(?P<value>:\w+)")
# Names without a placeholder are words of an expression, and so are its keywords and functions.
_NAMES = re.compile(r"(?<![:\w#.])#?[A-Za-z_]\w*\b(?!\s*\()")
_KEYWORDS = frozenset({"SET", "REMOVE", "ADD", "DELETE", "AND", "OR", "NOT", "BETWEEN", "IN"})


def install() -> None:
    """Give policies the keys of requests for items, once."""
    context_of = iam_actions.dynamodb_service_context

    def with_keys(body: bytes) -> dict[str, Any]:
        return {**context_of(body), **conditions_of(body)}

    iam_actions.dynamodb_service_context = with_keys


def conditions_of(body: bytes) -> dict[str, list[str]]:
    """Return the partition keys and the attributes that a request names."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return {}
    if not isinstance(request, dict):
        return {}
    keys: list[str] = []
    attributes: list[str] = []
    for operation in _operations(request):
        keys += _leading_keys(operation)
        attributes += _attributes(operation)
    found = {
        "dynamodb:LeadingKeys": list(dict.fromkeys(keys)),
        "dynamodb:Attributes": list(dict.fromkeys(attributes)),
    }
    return {name: values for name, values in found.items() if values}


def _operations(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if transacted := request.get("TransactItems"):
        for entry in transacted:
            yield from (entry[kind] for kind in _TRANSACTION if kind in entry)
        return
    if isinstance(batches := request.get("RequestItems"), dict):
        for table, batch in batches.items():
            yield from _batched(table, batch)
        return
    yield request


def _batched(table: str, batch: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(batch, dict):  # of BatchGetItem
        rest = {name: value for name, value in batch.items() if name != "Keys"}
        yield from ({**rest, "TableName": table, "Key": key} for key in batch.get("Keys", ()))
        return
    for write in batch:
        if "PutRequest" in write:
            yield {"TableName": table, "Item": write["PutRequest"]["Item"]}
        else:
            yield {"TableName": table, "Key": write["DeleteRequest"]["Key"]}


def _leading_keys(operation: Mapping[str, Any]) -> Iterator[str]:
    name = _partition_key(operation)
    for holder in ("Key", "Item"):
        if name in (item := operation.get(holder) or {}):
            yield _plain(item[name])
    names = operation.get("ExpressionAttributeNames") or {}
    values = operation.get("ExpressionAttributeValues") or {}
    for found in _EQUALITY.finditer(operation.get("KeyConditionExpression") or ""):
        if names.get(found["name"], found["name"]) == name and found["value"] in values:
            yield _plain(values[found["value"]])
    legacy = (operation.get("KeyConditions") or {}).get(name)
    yield from (_plain(value) for value in (legacy or {}).get("AttributeValueList", ()))


def _partition_key(operation: Mapping[str, Any]) -> str:
    """Return the name of the partition key of the table, or of the index that is queried."""
    table = dynamodb._tables.get(str(operation.get("TableName", "")).rpartition("/")[2]) or {}
    schema = table.get("KeySchema", ())
    for index in table.get("GlobalSecondaryIndexes") or ():
        if index["IndexName"] == operation.get("IndexName"):
            schema = index["KeySchema"]
    return next((key["AttributeName"] for key in schema if key["KeyType"] == "HASH"), "")


def _attributes(operation: Mapping[str, Any]) -> Iterator[str]:
    yield from operation.get("Key") or ()
    yield from operation.get("Item") or ()
    yield from operation.get("AttributesToGet") or ()
    yield from operation.get("AttributeUpdates") or ()
    yield from operation.get("Expected") or ()
    names = operation.get("ExpressionAttributeNames") or {}
    for expression in _EXPRESSIONS:
        for found in _NAMES.findall(operation.get(expression) or ""):
            if found.upper() not in _KEYWORDS:
                yield names.get(found, found)


def _plain(value: Any) -> str:
    """Return a key as text; it has one of the types S, N and B."""
    return str(next(iter(value.values()), "")) if isinstance(value, dict) else str(value)
