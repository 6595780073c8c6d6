"""One DynamoDB table: conditional writes, consistent reads, retries after conflicts."""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from runctl.aws.attributes import Item, deserialize, serialize
from runctl.aws.errors import code_of, translated
from runctl.model.errors import TransientError

MAX_BATCH_ITEMS = 100
MAX_CONFLICTS = 8
FAILED_CONDITION = "ConditionalCheckFailed"
PASSING = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_RANDOM = random.SystemRandom()

Result = TypeVar("Result")
Sleep = Callable[[float], None]


class Table:
    """A table with the keys `pk` and `sk`, in plain values."""

    def __init__(self, client: Any, name: str, *, sleep: Sleep = time.sleep) -> None:
        self._client = client
        self._table = name
        self._sleep = sleep

    def get(self, key: Mapping[str, str]) -> Item | None:
        """Read one item, consistently."""
        with translated():
            answer = self._client.get_item(
                TableName=self._table, Key=serialize(key), ConsistentRead=True
            )
        return deserialize(answer["Item"]) if "Item" in answer else None

    def get_many(self, keys: Sequence[Mapping[str, str]]) -> Iterator[Item]:
        """Read many items, consistently, in no order."""
        waiting = [serialize(key) for key in keys]
        for _ in range(MAX_CONFLICTS + len(waiting) // MAX_BATCH_ITEMS):
            if not waiting:
                return
            batch, waiting = waiting[:MAX_BATCH_ITEMS], waiting[MAX_BATCH_ITEMS:]
            with translated():
                answer = self._client.batch_get_item(
                    RequestItems={self._table: {"Keys": batch, "ConsistentRead": True}}
                )
            yield from (deserialize(item) for item in answer["Responses"].get(self._table, []))
            if left := answer.get("UnprocessedKeys", {}).get(self._table):
                waiting += left["Keys"]
                self._sleep(_RANDOM.uniform(0.05, 0.2))
        if waiting:
            raise TransientError("DynamoDB kept leaving keys of a batch unread")

    def pages(self, **query: Any) -> Iterator[list[Item]]:
        """Query, page by page."""
        while True:
            with translated():
                answer = self._client.query(TableName=self._table, **query)
            yield [deserialize(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def update(
        self, key: Mapping[str, str], *, update: str, condition: str, values: Mapping[str, Any]
    ) -> Item | None:
        """Make one conditional write; return the new item, or None if the condition failed."""

        def write() -> Item | None:
            try:
                answer = self._client.update_item(
                    TableName=self._table,
                    Key=serialize(key),
                    ReturnValues="ALL_NEW",
                    **expressions(update=update, condition=condition, values=values),
                )
            except ClientError as exc:
                if code_of(exc) == "ConditionalCheckFailedException":
                    return None
                raise
            return deserialize(answer["Attributes"])

        return self._without_conflict(write)

    def transact(self, *actions: dict[str, dict[str, Any]]) -> bool:
        """Make several writes in one transaction; return False if a condition failed."""
        items = [
            {kind: {"TableName": self._table, **action}}
            for entry in actions
            for kind, action in entry.items()
        ]

        def write() -> bool:
            try:
                self._client.transact_write_items(TransactItems=items)
            except ClientError as exc:
                reasons = exc.response.get("CancellationReasons", [])
                if any(reason.get("Code") == FAILED_CONDITION for reason in reasons):
                    return False
                raise
            return True

        return self._without_conflict(write)

    def _without_conflict(self, write: Callable[[], Result]) -> Result:
        """Retry a write that conflicts with another one on the same item; botocore does not."""
        for turn in range(MAX_CONFLICTS):
            with translated():
                try:
                    return write()
                except ClientError as exc:
                    if not _is_conflict(exc):
                        raise
            self._sleep(_RANDOM.uniform(0, 0.05 * 2**turn))
        raise TransientError("writes to the ledger kept conflicting with others")


def _is_conflict(exc: ClientError) -> bool:
    reasons = exc.response.get("CancellationReasons", [])
    return code_of(exc) in {
        "TransactionConflictException",
        "TransactionInProgressException",
    } or any(reason.get("Code") in PASSING for reason in reasons)


def update_of(
    key: Mapping[str, str], *, update: str, condition: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an Update for a transaction."""
    written = expressions(update=update, condition=condition, values=values)
    return {"Update": {"Key": serialize(key), **written}}


def put_of(item: Item, *, condition: str = "", values: Mapping[str, Any] | None = None) -> Item:
    """Return a Put for a transaction."""
    return {"Put": {"Item": serialize(item), **expressions(condition=condition, values=values)}}


def expressions(
    *,
    key: str = "",
    update: str = "",
    condition: str = "",
    values: Mapping[str, Any] | None = None,
    filtered: str = "",
) -> dict[str, Any]:
    """Return the expression arguments; every name is a placeholder, since many are reserved."""
    names = re.findall(r"#(\w+)", f"{key} {update} {condition} {filtered}")
    arguments: dict[str, Any] = {
        "KeyConditionExpression": key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "FilterExpression": filtered,
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
        "ExpressionAttributeValues": serialize(
            {f":{name}": v for name, v in (values or {}).items()}
        ),
    }
    return {name: value for name, value in arguments.items() if value}
