"""Everything that a deployment stores of a run: objects with all versions, log streams, items."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from botocore.exceptions import ClientError

from runctl.aws.attributes import serialize
from runctl.aws.errors import code_of, translated
from runctl.aws.parts import MAX_KEYS_PER_DELETE
from runctl.aws.table import Table, expressions
from runctl.model import identity
from runctl.model.errors import RefusedError, TransientError, UnexpectedAwsError
from runctl.model.stored_data import ItemKey, ObjectVersion

_MAX_ITEMS_PER_DELETE = 25
_MAX_ROUNDS = 8
_RANDOM = random.SystemRandom()


class GetClient(Protocol):
    """Returns the client of a service."""

    def __call__(self, service: str) -> Any:
        """Return the client."""
        ...


class RunData:
    """Implements `runctl.control.ports.RunData`.

    Every removal may be repeated; whatever is already gone is ignored.
    """

    def __init__(self, get_client: GetClient, *, bucket: str, table: str, log_group: str) -> None:
        self._get = get_client
        self._bucket = bucket
        self._table = table
        self._log_group = log_group

    def objects(self, prefix: str) -> Iterator[ObjectVersion]:
        """Yield every version of every object below a prefix, deletion markers included."""
        pages = self._get("s3").get_paginator("list_object_versions")
        with translated():
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                    yield ObjectVersion(
                        key=entry["Key"],
                        version=entry["VersionId"],
                        size_bytes=entry.get("Size", 0),
                    )

    def remove_objects(self, objects: Iterable[ObjectVersion]) -> None:
        """Remove these versions for good.

        Raises RefusedError or UnexpectedAwsError for one that S3 does not remove.
        """
        batch: list[dict[str, str]] = []
        for each in objects:
            batch.append({"Key": each.key, "VersionId": each.version})
            if len(batch) == MAX_KEYS_PER_DELETE:
                self._remove_batch(batch)
                batch = []
        if batch:
            self._remove_batch(batch)

    def _remove_batch(self, batch: Sequence[dict[str, str]]) -> None:
        with translated():
            answer = self._get("s3").delete_objects(
                Bucket=self._bucket, Delete={"Objects": list(batch), "Quiet": True}
            )
        for error in answer.get("Errors", ()):
            code, key = error.get("Code", ""), error.get("Key", "")
            if code == "AccessDenied":
                raise RefusedError(
                    f"S3 does not permit s3:DeleteObjectVersion on {key} (AccessDenied); allow it, "
                    "then try again"
                )
            raise UnexpectedAwsError(f"S3 did not remove {key} ({code}); try again", code=code)

    def log_streams(self, run_id: str) -> list[str]:
        """Return the names of the streams of a run, those of its builds included."""
        pages = self._get("logs").get_paginator("describe_log_streams")
        query = {"logGroupName": self._log_group, "logStreamNamePrefix": f"{run_id}/"}
        with translated():
            try:
                return [
                    str(stream["logStreamName"])
                    for page in pages.paginate(**query)
                    for stream in page["logStreams"]
                ]
            except ClientError as exc:
                if code_of(exc) == "ResourceNotFoundException":
                    return []
                raise

    def remove_log_stream(self, name: str) -> None:
        """Remove a stream with all its lines."""
        with translated():
            try:
                self._get("logs").delete_log_stream(
                    logGroupName=self._log_group, logStreamName=name
                )
            except ClientError as exc:
                if code_of(exc) != "ResourceNotFoundException":
                    raise

    def items(self, run_id: str) -> list[ItemKey]:
        """Return the keys of the items of a run, its attempts and its nodes, that of the run last.

        Without the run's own item a repetition would find nothing to remove.
        """
        pages = Table(self._get("dynamodb"), self._table).pages(
            ConsistentRead=True,
            **expressions(key="#pk = :pk", values={"pk": identity.run_key(run_id)["pk"]}),
        )
        found = [ItemKey(item["pk"], item["sk"]) for page in pages for item in page]
        return sorted(found, key=lambda key: key.sk == identity.run_key(run_id)["sk"])

    def remove_items(self, keys: Sequence[ItemKey]) -> None:
        """Remove items of the ledger, in this order."""
        for start in range(0, len(keys), _MAX_ITEMS_PER_DELETE):
            requests = [
                {"DeleteRequest": {"Key": serialize({"pk": key.pk, "sk": key.sk})}}
                for key in keys[start : start + _MAX_ITEMS_PER_DELETE]
            ]
            self._write(requests)

    def _write(self, requests: list[dict[str, Any]]) -> None:
        for turn in range(_MAX_ROUNDS):
            with translated():
                answer = self._get("dynamodb").batch_write_item(
                    RequestItems={self._table: requests}
                )
            requests = answer.get("UnprocessedItems", {}).get(self._table, [])
            if not requests:
                return
            time.sleep(_RANDOM.uniform(0, 0.1 * 2**turn))
        raise TransientError("DynamoDB kept leaving items of a batch in place; try again")
