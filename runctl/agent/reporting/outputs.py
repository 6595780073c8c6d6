"""Uploading what the trainer left in RUNCTL_OUTPUT_DIR, never over what a later attempt left."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.errors import code_of
from runctl.model import identity
from runctl.model.errors import TransientError

# Bounded memory: two pieces of 8 MiB at a time. S3 takes 10,000 of them, the last of any size.
CHUNK_BYTES = 8 * 1024 * 1024
MAX_CHUNKS = 10_000
THREADS = 2
ATTEMPT = "runctl-attempt"
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
# Somebody else wrote or removed the object since we looked, or does so at this moment.
CHANGED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict", *MISSING})
MAX_CONFLICTS = 10

logger = logging.getLogger(__name__)


def upload_outputs(
    client: Any,
    folder: Path,
    *,
    bucket: str,
    run_id: str,
    attempt: int,
    until: float = float("inf"),
) -> int:
    """Upload every file below `folder`; return how many. `until` is a monotonic instant.

    An interrupted attempt goes on with this after its report, when the next one may have its token
    already: a file that a later attempt uploaded is left alone, whichever was first. Symbolic links
    to files are followed, those to folders are not. Raises TransientError when an upload failed
    though it was tried again.
    """
    count = 0
    for base, _folders, files in os.walk(folder):
        for name in sorted(files):
            path = Path(base) / name
            if time.monotonic() > until:
                logger.warning("no time is left for the output %s and what follows", name)
                return count
            if not path.is_file():
                continue
            key = identity.output_prefix(run_id) + _key_of(path.relative_to(folder))
            try:
                count += _upload(client, path, bucket, key, attempt)
            except FileNotFoundError:
                continue
            except (ClientError, BotoCoreError, OSError, ValueError) as exc:
                raise TransientError(f"the output {name!a} could not be uploaded: {exc}") from exc
    return count


def _key_of(path: Path) -> str:
    """Name an output in S3, whose keys are UTF-8: any other byte is written as an escape."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _upload(client: Any, path: Path, bucket: str, key: str, attempt: int) -> bool:
    """Upload one file unless a later attempt did; the condition holds against one that does now."""
    for _ in range(MAX_CONFLICTS):
        try:
            there = client.head_object(Bucket=bucket, Key=key)
        except ClientError as exc:
            if code_of(exc) not in MISSING:
                raise
            condition = {"IfNoneMatch": "*"}
        else:
            if _attempt_of(there) > attempt:
                logger.info("%s is of a later attempt and stays", key)
                return False
            condition = {"IfMatch": str(there["ETag"])}
        try:
            _put(client, path, {"Bucket": bucket, "Key": key}, condition, attempt)
        except ClientError as exc:
            if code_of(exc) not in CHANGED:
                raise
        else:
            return True
    raise TransientError(f"{key} is written to by somebody else all the time")


def _attempt_of(there: Mapping[str, Any]) -> int:
    told = there.get("Metadata", {}).get(ATTEMPT, "")
    return int(told) if told.isdigit() else 0


def _put(
    client: Any, path: Path, place: dict[str, str], condition: dict[str, str], attempt: int
) -> None:
    """Store the file as it is now, at once or in pieces, with its attempt as metadata."""
    size = path.stat().st_size
    metadata = {ATTEMPT: str(attempt)}
    if size <= CHUNK_BYTES:
        client.put_object(**place, **condition, Metadata=metadata, Body=_read(path, 0, size))
        return
    step = max(CHUNK_BYTES, -(-size // MAX_CHUNKS))
    upload = client.create_multipart_upload(**place, Metadata=metadata)["UploadId"]

    def store(offset: int) -> dict[str, Any]:
        number = offset // step + 1
        body = _read(path, offset, min(step, size - offset))
        answer = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="outputs") as pool:
            pieces = list(pool.map(store, range(0, size, step)))
        client.complete_multipart_upload(
            **place, **condition, UploadId=upload, MultipartUpload={"Parts": pieces}
        )
    except BaseException:
        with contextlib.suppress(ClientError, BotoCoreError):
            client.abort_multipart_upload(**place, UploadId=upload)
        raise


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(size)
    if len(content) < size:
        raise OSError(f"{path.name} became shorter while it was read")
    return content
