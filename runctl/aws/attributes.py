"""Attributes of items in DynamoDB, and how their values are read, whichever version wrote them."""

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

Item = dict[str, Any]

_serializer, _deserializer = TypeSerializer(), TypeDeserializer()


def serialize(values: Mapping[str, Any]) -> Item:
    """Return values in DynamoDB's typed form."""
    return {name: _serializer.serialize(value) for name, value in values.items()}


def deserialize(item: Mapping[str, Any]) -> Item:
    """Return plain values from DynamoDB's typed form."""
    return {name: _deserializer.deserialize(value) for name, value in item.items()}


def text_of(instant: datetime) -> str:
    """Write an instant so that texts sort as the instants do."""
    return instant.astimezone(timezone.utc).isoformat(timespec="microseconds")


def document_of(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object of a JSON attribute, empty if there is none."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        document = json.loads(item[name])
        return document if isinstance(document, dict) else {}
    return {}


def instant_of(item: Mapping[str, Any], name: str) -> datetime | None:
    """Return the instant of an attribute, or None."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return datetime.fromisoformat(item[name])
    return None


def either_of(
    item: Mapping[str, Any],
    name: str,
    old_name: str,
    choose: Callable[[list[datetime]], datetime],
) -> datetime | None:
    """Return the instant of an attribute that was renamed, chosen where both versions wrote it."""
    instants = [at for at in (instant_of(item, name), instant_of(item, old_name)) if at is not None]
    return choose(instants) if instants else None


def whole_number_of(item: Mapping[str, Any], name: str) -> int | None:
    """Return the whole number of an attribute, or None."""
    with contextlib.suppress(KeyError, TypeError, ValueError, ArithmeticError):
        return int(item[name])
    return None
