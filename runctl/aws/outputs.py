"""The outputs of a run in S3, where a file of a later attempt is never replaced."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.aws.missing_objects import FORBIDDEN, MISSING
from runctl.beneath.opened_file import OpenedFile
from runctl.model import identity
from runctl.model.errors import RunctlError, TransientError

# At most two parts of 8 MiB are in memory. S3 takes 10,000 parts, so those of large files are
# larger.
PART_BYTES = 8 * 1024 * 1024
MAX_PARTS = 10_000
UPLOAD_THREADS = 2
ATTEMPT = "runctl-attempt"
RUN = "runctl-run"
# Another writer has stored or removed the object since it was looked up, or is doing so.
CHANGED = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict", *MISSING})
MAX_CONFLICTS = 10


class OutputStore:
    """Implements `runctl.agent.ports.Outputs` for one run, below its own prefix or another one."""

    def __init__(self, client: Any, *, bucket: str, run_id: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._run_id = run_id
        self._prefix = prefix or identity.output_prefix(run_id)

    def put(self, name: str, file: OpenedFile, *, attempt: int) -> bool:
        """Store a file as an output unless a later attempt has stored it; False in that case.

        The condition of the write also holds against one that does so at the same time. OSError if
        the file cannot be read, TransientError if S3 cannot be reached or another writer keeps
        interfering.
        """
        place = {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}
        for _ in range(MAX_CONFLICTS):
            with translated():
                stored = self._find(place)
                if stored is not None and self._attempt_of(stored) > attempt:
                    return False
                condition = (
                    {"IfNoneMatch": "*"} if stored is None else {"IfMatch": str(stored["ETag"])}
                )
                try:
                    self._put(file, place, condition, attempt)
                except ClientError as exc:
                    if code_of(exc) not in CHANGED:
                        raise
                else:
                    return True
        raise TransientError(f"another writer keeps changing {place['Key']}")

    def _find(self, place: Mapping[str, str]) -> Mapping[str, Any] | None:
        try:
            stored: Mapping[str, Any] = self._client.head_object(**place)
        except ClientError as exc:
            # Those who may not list the bucket read 403 for a missing object; the write that
            # follows has a condition, and needs a permission of its own.
            if code_of(exc) not in MISSING | FORBIDDEN:
                raise
            return None
        return stored

    def _attempt_of(self, stored: Mapping[str, Any]) -> int:
        """Return the attempt of this run that stored an object, 0 for anybody else's."""
        metadata = stored.get("Metadata", {})
        number = metadata.get(ATTEMPT, "")
        is_ours = metadata.get(RUN, self._run_id) == self._run_id
        return int(number) if is_ours and number.isdigit() else 0

    def _put(
        self, file: OpenedFile, place: Mapping[str, str], condition: Mapping[str, str], attempt: int
    ) -> None:
        """Store the file as it is now, with its run and attempt as metadata."""
        metadata = {ATTEMPT: str(attempt), RUN: self._run_id}
        put_file(self._client, file, place, condition, metadata)


def put_file(
    client: Any,
    file: OpenedFile,
    place: Mapping[str, str],
    condition: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Store a file as it is now, whole or in parts, if the condition holds.

    Raises ClientError; OSError if the file cannot be read.
    """
    size = file.size_bytes
    if size <= PART_BYTES:
        body = _read(file, 0, size)
        client.put_object(**place, **condition, Metadata=metadata, Body=body)
        return
    step = max(PART_BYTES, -(-size // MAX_PARTS))
    upload = client.create_multipart_upload(**place, Metadata=metadata)["UploadId"]

    def store(offset: int) -> dict[str, Any]:
        number = offset // step + 1
        body = _read(file, offset, min(step, size - offset))
        answer = client.upload_part(**place, UploadId=upload, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        with ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="outputs") as pool:
            parts = list(pool.map(store, range(0, size, step)))
        client.complete_multipart_upload(
            **place, **condition, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        with contextlib.suppress(RunctlError), translated():
            client.abort_multipart_upload(**place, UploadId=upload)
        raise


def _read(file: OpenedFile, offset: int, size: int) -> bytes:
    content = file.read(offset, size)
    if len(content) < size:
        raise OSError(f"{file.name} became shorter while it was read")
    return content
