"""The inputs of runs in S3: listed, examined and read as they were when they were listed."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, message_of, translated
from runctl.aws.missing_objects import MISSING
from runctl.aws.objects import ELSEWHERE, FORBIDDEN
from runctl.model.errors import ForbiddenDataError, RequestError
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.object_checksums import Checksum

CHANGED = frozenset({"412", "PreconditionFailed"})
ARCHIVED = frozenset({"InvalidObjectState"})
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
CHUNK_BYTES = 256 * 1024
# The checksums that Python can compute at the speed of a network, the strongest first.
_ALGORITHMS = ("SHA256", "SHA1", "CRC32")
# Encrypted with these, the ETag is not the MD5 of the content.
_KMS = "aws:kms"


@dataclass(frozen=True, kw_only=True)
class ObjectPart:
    """A range of an object that is being read; of a whole object the checksum is known, too."""

    checksum: Checksum
    chunks: Iterator[bytes]


class InputStore:
    """Implements `runctl.agent.ports.Inputs`; reads any bucket that the caller may read.

    A read may be repeated at any time: it names the ETag that was listed, so S3 refuses it if the
    object has changed since.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        """Yield the objects of an input in the order of their keys, markers of folders included.

        Raises RequestError, with the remedy, if they cannot be listed.
        """
        if not source.is_prefix:
            yield self._find(source)
            return
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                Bucket=source.bucket, Prefix=source.key
            )
        )
        has_archived = False
        while True:
            with translated(), _explained(source):
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                found = StoredObject(item["Key"], int(item["Size"]), item["ETag"])
                if item.get("StorageClass") in ARCHIVES and not has_archived:
                    has_archived = True  # one that is restored stands for all
                    self._require_restored(source, found)
                yield found

    def _find(self, source: InputSource) -> StoredObject:
        with translated(), _explained(source):
            answer = self._client.head_object(Bucket=source.bucket, Key=source.key)
        found = StoredObject(source.key, int(answer["ContentLength"]), answer["ETag"])
        if answer.get("StorageClass") in ARCHIVES:
            self._require_restored(source, found)
        return found

    def _require_restored(self, source: InputSource, found: StoredObject) -> None:
        with translated(), _explained(source, found):
            answer = self._client.head_object(Bucket=source.bucket, Key=found.key)
        if 'ongoing-request="false"' not in answer.get("Restore", ""):
            raise RequestError(_archived(f"s3://{source.bucket}/{found.key}"))

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        """Return by what the content of an object can be verified.

        Raises RequestError if the object has changed since it was listed, or may not be read.
        """
        place = {"Bucket": source.bucket, "Key": found.key}
        with translated(), _explained(source, found):
            answer = self._client.head_object(**place, IfMatch=found.etag, ChecksumMode="ENABLED")
            part_bytes = 0
            if "-" in found.etag:
                # Every read of its content names the ETag, too.
                first = self._client.head_object(**place, PartNumber=1)
                part_bytes = int(first["ContentLength"])
        return _checksum_of(answer, found, part_bytes=part_bytes)

    @contextlib.contextmanager
    def open(
        self, source: InputSource, found: StoredObject, *, offset: int, size_bytes: int
    ) -> Iterator[ObjectPart]:
        """Open a range of an object that was listed; TransientError if the connection breaks.

        Raises RequestError if it is no longer the same, or may not be read.
        """
        scope: dict[str, str] = {"ChecksumMode": "ENABLED"}
        if size_bytes != found.size_bytes:
            scope = {"Range": f"bytes={offset}-{offset + size_bytes - 1}"}
        with translated(), _explained(source, found):
            answer = self._client.get_object(
                Bucket=source.bucket, Key=found.key, IfMatch=found.etag, **scope
            )
        with contextlib.closing(answer["Body"]) as body:
            yield ObjectPart(
                checksum=_checksum_of(answer, found, part_bytes=0), chunks=_chunks(body)
            )


def _checksum_of(answer: Mapping[str, Any], found: StoredObject, *, part_bytes: int) -> Checksum:
    values = {name: answer.get(f"Checksum{name}", "") for name in _ALGORITHMS}
    if "-" in found.etag and answer.get("ChecksumType") != "FULL_OBJECT":
        # That of the parts' checksums; services like S3 may leave out the number of parts.
        values = {name: value for name, value in values.items() if "-" in value}
    is_encrypted = answer.get("ServerSideEncryption", "").startswith(_KMS)
    if not is_encrypted and "SSECustomerAlgorithm" not in answer:
        values["MD5"] = found.etag.strip('"')
    return Checksum.choose(values, size_bytes=found.size_bytes, part_bytes=part_bytes)


def _chunks(body: Any) -> Iterator[bytes]:
    with translated():
        yield from body.iter_chunks(CHUNK_BYTES)


@contextlib.contextmanager
def _explained(source: InputSource, found: StoredObject | None = None) -> Iterator[None]:
    """Turn the refusals that waiting does not change into a RequestError with the remedy."""
    try:
        yield
    except ClientError as exc:
        if problem := _problem(exc, source, found):
            error = ForbiddenDataError if code_of(exc) in FORBIDDEN else RequestError
            raise error(problem) from exc
        raise


def _problem(exc: ClientError, source: InputSource, found: StoredObject | None) -> str:
    code = code_of(exc)
    name = str(source) if found is None else f"s3://{source.bucket}/{found.key}"
    if code == "NoSuchBucket":
        return f"there is no bucket {source.bucket}; check the name"
    if found is not None and code in CHANGED | MISSING:
        return (
            f"{name} was changed or deleted while the inputs were staged; write inputs under new "
            "keys, and start the run when they are complete"
        )
    if code in MISSING:
        return (
            f"{name} does not exist; upload it first, or end the URI with / for all objects below "
            "a prefix"
        )
    if code in ARCHIVED:
        return _archived(name)
    if code in FORBIDDEN:
        return (
            f"{name} may not be read ({message_of(exc) or code}); name the bucket in the context "
            "`readable_buckets` and deploy again, and allow the KMS key if it is encrypted with one"
        )
    if code in ELSEWHERE:
        return f"{name} is in another region than this deployment; copy it to this region"
    return ""


def _archived(name: str) -> str:
    return f"{name} is archived; restore it, or copy it to another storage class"
