"""S3 objects that are read and written whole: code, logs, metrics."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import NotFoundError, TransientError

MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Blob:
    """An open object; its chunks can be read once."""

    size_bytes: int
    chunks: Iterator[bytes]


class Blobs:
    """Implements `runctl.agent.ports.Blobs`; keys are those of `bucket`."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put(self, key: str, body: bytes, *, content_type: str = "") -> None:
        """Store an object, and replace an existing one; browsers go by its content type."""
        described = {"ContentType": content_type} if content_type else {}
        with translated():
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **described)

    @contextlib.contextmanager
    def open(self, key: str, *, bucket: str = "") -> Iterator[Blob]:
        """Open an object; NotFoundError if there is none.

        Without the permission to list the bucket, a missing object is a RefusedError. A connection
        that breaks while the chunks are read is a TransientError.
        """
        where = bucket or self._bucket
        with translated():
            try:
                answer = self._client.get_object(Bucket=where, Key=key)
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    raise NotFoundError(f"s3://{where}/{key} does not exist") from exc
                raise
        with contextlib.closing(answer["Body"]) as body:
            yield Blob(size_bytes=int(answer["ContentLength"]), chunks=_chunks(body))

    def upload(self, key: str, path: Path) -> None:
        """Store a file of any size, in parts if it is large."""
        with translated():
            self._client.upload_file(str(path), self._bucket, key)

    def copy(self, source: str, key: str) -> None:
        """Copy an object of any size within the bucket."""
        # Only the monitor copies; nothing else needs to load this module.
        from s3transfer.exceptions import S3CopyFailedError

        try:
            with translated():
                self._client.copy({"Bucket": self._bucket, "Key": source}, self._bucket, key)
        except S3CopyFailedError as exc:
            raise TransientError(f"{source} changed while it was copied: {exc}") from exc

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""
        with translated():
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys with a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        with translated():
            return [item["Key"] for page in pages for item in page.get("Contents", ())]


def _chunks(body: Any) -> Iterator[bytes]:
    with translated():
        yield from body.iter_chunks(CHUNK_BYTES)
