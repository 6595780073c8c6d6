"""A store of parts, which are named by their content, in one bucket."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.errors import code_of, translated
from runctl.aws.fast_s3.byte_budget import ByteBudget
from runctl.aws.fast_s3.http1 import Buffer, StrangeAnswerError, Write
from runctl.aws.fast_s3.sender import FastS3Sender
from runctl.aws.missing_objects import FORBIDDEN, MISSING
from runctl.model.checkpoint_entry import Part
from runctl.model.errors import DamagedCheckpointError, RefusedError, TransientError
from runctl.model.manifest_rules import DIGEST
from runctl.policy.garbage import StoredPart

ALREADY_THERE = frozenset({"412", "PreconditionFailed"})
# Two writers of one key at the same instant: S3 refuses one of them and asks it to try again.
CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
MAX_CONFLICTS = 10
MAX_KEYS_PER_DELETE = 1000
# Bytes may change in transit; another read shows whether the part itself is damaged.
MAX_READS = 3


class PartStore:
    """Parts below one prefix of the bucket; safe to share between threads.

    With `write_once`, every PUT is conditional: an object that exists is never replaced.
    """

    def __init__(
        self, client: Any, *, bucket: str, part_prefix: str, write_once: bool = False
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._part_prefix = part_prefix
        self._condition = {"IfNoneMatch": "*"} if write_once else {}
        self._fast_sender = FastS3Sender(client, bucket=bucket)
        self._budget = ByteBudget()

    def has_part(self, part: Part) -> bool:
        """Whether the part is stored."""
        with translated():
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._part_key(part))
            except ClientError as exc:
                # Those who may not list the bucket read 403 for a missing part. If it is there and
                # may not be read, the upload that follows finds the permission missing.
                if code_of(exc) in MISSING | FORBIDDEN:
                    return False
                raise
        return int(answer["ContentLength"]) == part.size_bytes

    def put_part(self, part: Part, content: Iterable[Buffer]) -> None:
        """Store a part; DamagedCheckpointError if its bytes do not match its name.

        `content` is iterated again for each try. S3 refuses bytes that change in transit.
        """
        key = self._part_key(part)
        checksum = base64.b64encode(bytes.fromhex(part.sha256)).decode()
        if self._fast_sender.put(
            key,
            content,
            size_bytes=part.size_bytes,
            sha256=checksum,
            write_once=bool(self._condition),
        ):
            return
        with self._budget.reserve(part.size_bytes):
            self._put_with_client(part, key, content, checksum)

    def _put_with_client(
        self, part: Part, key: str, content: Iterable[Buffer], checksum: str
    ) -> None:
        body = bytearray()
        for chunk in content:  # each may reuse the memory of the previous one
            body += chunk
        if hashlib.sha256(body).hexdigest() != part.sha256:
            raise DamagedCheckpointError(f"checksum mismatch for part {part.sha256}")
        with self._fast_sender.learning("PutObject", key):
            self._put(key, body, ChecksumSHA256=checksum, **self._condition)

    def get_part(self, part: Part, write: Write) -> None:
        """Pass a part's bytes to `write`, chunk by chunk with their offsets in the part.

        The bytes are valid only once this returns: a try that breaks off, or yields other bytes, is
        repeated from the beginning. Raises DamagedCheckpointError if they never match the part's
        name.
        """
        key = self._part_key(part)
        digest, end = hashlib.sha256(), 0

        def check_and_write(offset: int, chunk: Buffer) -> None:
            nonlocal end
            end = offset + len(chunk)
            if end > part.size_bytes:
                raise StrangeAnswerError("the part is longer than it should be")
            digest.update(chunk)
            write(offset, chunk)

        if self._fast_sender.get(key, check_and_write) and digest.hexdigest() == part.sha256:
            if end == part.size_bytes:
                return
            raise _other_size(part)
        with self._budget.reserve(part.size_bytes):
            for _ in range(MAX_READS):
                content = self._get(key, most=part.size_bytes)
                if hashlib.sha256(content).hexdigest() == part.sha256:
                    if len(content) != part.size_bytes:
                        raise _other_size(part)
                    write(0, content)
                    return
        raise DamagedCheckpointError(f"checksum mismatch for part {part.sha256}")

    def parts(self) -> Iterator[StoredPart]:
        """Yield every part that is stored, with its age."""
        for item in self._objects(self._part_prefix):
            yield StoredPart(
                sha256=item["Key"].removeprefix(self._part_prefix),
                size_bytes=item["Size"],
                stored_at=item["LastModified"],
            )

    def _part_key(self, part: Part) -> str:
        if DIGEST.fullmatch(part.sha256) is None:  # it may come from a stored document
            raise DamagedCheckpointError(f"{part.sha256[:100]!a} is not the name of a part")
        return f"{self._part_prefix}{part.sha256}"

    def _put_if_absent(self, key: str, body: bytes) -> bool:
        """Store a JSON document unless there is one; return whether it was stored."""
        options = {"ContentType": "application/json", "ChecksumAlgorithm": "SHA256"}
        return self._put(key, body, IfNoneMatch="*", **options)

    def _put(self, key: str, body: bytes | bytearray, **options: Any) -> bool:
        """Store an object; return False if there is one, and the request is conditional."""
        is_conditional = "IfNoneMatch" in options
        for _ in range(MAX_CONFLICTS):
            with translated():
                try:
                    self._client.put_object(Bucket=self._bucket, Key=key, Body=body, **options)
                except ClientError as exc:
                    if code_of(exc) in FORBIDDEN:
                        raise _forbidden("s3:PutObject", key) from exc
                    if is_conditional and code_of(exc) in ALREADY_THERE:
                        return False
                    if is_conditional and code_of(exc) in CONFLICT:
                        continue
                    raise
            return True
        raise TransientError(f"another writer keeps writing {key}; try again")

    def _get(self, key: str, *, most: int, **options: Any) -> bytes:
        """Return an object of at most `most` bytes; DamagedCheckpointError if there is none."""
        body = self._find(key, most=most, **options)
        if body is None:
            raise DamagedCheckpointError(f"{key} is missing")
        return body

    def _find(self, key: str, *, most: int, **options: Any) -> bytes | None:
        """Return an object of at most `most` bytes; None if there is none."""
        with translated(), self._fast_sender.learning("GetObject", key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, **options)
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    return None
                if code_of(exc) in FORBIDDEN:
                    raise _forbidden("s3:GetObject", key) from exc
                raise
        if int(answer["ContentLength"]) > most:
            answer["Body"].close()
            raise DamagedCheckpointError(
                f"{key} has {answer['ContentLength']:,} bytes, more than the limit of {most:,}"
            )
        try:
            # The connection may break in the middle of a body; botocore does not retry that.
            return bytes(answer["Body"].read())
        except BotoCoreError as exc:
            raise TransientError(f"{key} could not be read to its end: {exc}") from exc

    def _keys(self, prefix: str) -> Iterable[str]:
        return (str(item["Key"]) for item in self._objects(prefix))

    def _objects(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with translated(), self._fast_sender.learning("ListObjectsV2"):
                page = next(pages, None)
            if page is None:
                return
            yield from page.get("Contents", ())

    def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), MAX_KEYS_PER_DELETE):
            batch = [{"Key": key} for key in keys[start : start + MAX_KEYS_PER_DELETE]]
            with translated():
                self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )


def _other_size(part: Part) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"size mismatch for part {part.sha256}: a manifest states {part.size_bytes:,} bytes"
    )


def _forbidden(action: str, key: str) -> RefusedError:
    return RefusedError(
        f"S3 does not permit {action} on {key} (AccessDenied); allow it, then try again"
    )
