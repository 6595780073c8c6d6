# ruff: noqa: SLF001 - it changes where ministack's S3 keeps the contents of objects
"""S3 objects whose contents are files; ministack keeps them in memory.

ministack's records stay as they are, but refer to a `Body` in place of bytes. A version, a copy and
a completed upload refer to the files that exist already, so that nothing is written twice.
"""

from __future__ import annotations

import contextvars
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ministack.services import s3

from runctl.local.s3 import requests
from runctl.local.s3.bodies import Body, BodyStore
from runctl.local.s3.current import is_request, prepared_for
from runctl.local.s3.hashing import BodyHasher, StandIn

Answer = tuple[int, dict[str, Any], Any]
Record = dict[str, Any]

# The parts of the upload that is being completed.
_parts: contextvars.ContextVar[dict[int, Record] | None] = contextvars.ContextVar(
    "parts", default=None
)


def install(folder: Path) -> None:
    """Keep the contents of objects in a folder that does not exist yet, once."""
    store = BodyStore(folder)
    hasher = BodyHasher(store)
    hasher.install()
    _store_written_objects(store)
    _store_parts(store)
    _join_parts_of_completed_uploads()
    _read_for_other_services()
    requests.install(hasher)


def make_older(bucket: str, prefix: str, *, by: timedelta) -> int:
    """Date the objects with a prefix back, and return how many there are."""
    if bucket not in s3._buckets:
        raise ValueError(f"bucket: {bucket!r} does not exist")
    stored = s3._buckets[bucket]["objects"]
    records = [record for key, record in stored.items() if key.startswith(prefix)]
    for record in records:
        before = datetime.fromisoformat(record["last_modified"].replace("Z", "+00:00")) - by
        record["last_modified"] = before.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return len(records)


def _keep(store: BodyStore, content: bytes | Body) -> bytes | Body:
    prepared = prepared_for(content)
    return prepared.body if prepared else store.keep(content)


def _store_written_objects(store: BodyStore) -> None:
    build, describe = s3._build_object_record, s3._version_entry_from_record

    def build_record(content: bytes, *arguments: Any, **options: Any) -> Record:
        # The record replaces the previous object afterwards: if the disk is full, that one stays.
        body = _keep(store, content)
        return {**build(content, *arguments, **options), "body": body}

    def version_entry(record: Record, version_id: str, _content: Any) -> Record:
        entry: Record = describe(record, version_id, record["body"])
        return entry

    s3._build_object_record, s3._version_entry_from_record = build_record, version_entry


def _store_parts(store: BodyStore) -> None:
    upload = s3._upload_part

    def upload_part(
        bucket: str, key: str, content: bytes, query: Record, headers: Record
    ) -> Answer:
        body = _keep(store, content)
        answer: Answer = upload(bucket, key, content, query, headers)
        if answer[0] == 200:
            parts = s3._multipart_uploads[s3._qp(query, "uploadId")]["parts"]
            parts[int(s3._qp(query, "partNumber"))]["body"] = body
        return answer

    s3._upload_part = upload_part


def _join_parts_of_completed_uploads() -> None:
    complete, write = s3._complete_multipart_upload, s3._maybe_replicate

    def complete_upload(
        bucket: str, key: str, content: bytes, query: Record, headers: Record | None = None
    ) -> Answer:
        upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"))
        if upload is None:
            return complete(bucket, key, content, query, headers)  # type: ignore[no-any-return]
        parts = upload["parts"]
        upload["parts"] = {
            number: {**part, "body": StandIn.of(part)} for number, part in parts.items()
        }
        token = _parts.set(parts)
        try:
            return complete(bucket, key, content, query, headers)  # type: ignore[no-any-return]
        finally:
            _parts.reset(token)
            upload["parts"] = parts  # it is still open if the request was refused

    def before_write(bucket: str, key: str, record: Record, content: Any, tags: Any = None) -> None:
        # ministack calls this for every object that it writes, before anything refers to it.
        if (parts := _parts.get()) is not None:
            body = Body.join(parts[part["PartNumber"]]["body"] for part in record["parts"])
            record["body"], record["size"] = body, len(body)
        write(bucket, key, record, content, tags)

    s3._complete_multipart_upload, s3._maybe_replicate = complete_upload, before_write


def _read_for_other_services() -> None:
    """Give bytes to services that read objects inside ministack, such as Lambda."""
    read, get = s3._get_object_data, s3._get_object

    def get_data(*arguments: Any, **options: Any) -> bytes | None:
        content = read(*arguments, **options)
        return bytes(content) if isinstance(content, Body) else content

    def get_object(*arguments: Any) -> Answer:
        status, headers, content = get(*arguments)
        if isinstance(content, Body) and not is_request():
            content = bytes(content)
        return status, headers, content

    s3._get_object_data, s3._get_object = get_data, get_object
