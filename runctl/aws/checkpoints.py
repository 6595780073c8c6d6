"""The checkpoint store: parts named by their content, manifests written last and never changed."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.errors import code_of, translated
from runctl.aws.fast_s3.byte_budget import ByteBudget
from runctl.aws.fast_s3.http1 import Buffer, StrangeAnswerError, Write
from runctl.aws.fast_s3.sender import FastS3Sender
from runctl.model import identity
from runctl.model.checkpoint import Manifest, Part
from runctl.model.errors import (
    CheckpointError,
    DamagedCheckpointError,
    RefusedError,
    TransientError,
)
from runctl.model.manifest_rules import DIGEST, MAX_MANIFEST_BYTES
from runctl.policy.garbage import StoredPart

MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
# Never "missing": our roles may list the bucket, and then S3 answers 404 for a missing object.
FORBIDDEN = frozenset({"403", "AccessDenied"})
ALREADY_THERE = frozenset({"412", "PreconditionFailed"})
# Two writers of one key at the same instant: S3 refuses one of them and asks it to try again.
CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
MAX_REVISIONS = 10_000
MAX_CONFLICTS = 10
MAX_KEYS_PER_DELETE = 1000
# Bytes may change in transit; another read shows whether the part itself is damaged.
MAX_READS = 3


class CheckpointStore:
    """The checkpoints of one run in S3; safe to share between threads."""

    def __init__(self, client: Any, *, bucket: str, run_id: str, rank: int = 0) -> None:
        """`rank` is that of the node whose unfinished checkpoint is stored."""
        self._client = client
        self._bucket = bucket
        self._run_id = run_id
        self._rank = rank
        self._fast_sender = FastS3Sender(client, bucket=bucket)
        self._budget = ByteBudget()

    def has_part(self, part: Part) -> bool:
        """Whether the part is stored."""
        with translated():
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._part_key(part))
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    return False
                if code_of(exc) in FORBIDDEN:
                    raise _forbidden("s3:GetObject", self._part_key(part)) from exc
                raise
        return int(answer["ContentLength"]) == part.size_bytes

    def put_part(self, part: Part, content: Iterable[Buffer]) -> None:
        """Store a part; DamagedCheckpointError if its bytes do not match its name.

        `content` is iterated again for each try. S3 refuses bytes that change in transit.
        """
        key = self._part_key(part)
        checksum = base64.b64encode(bytes.fromhex(part.sha256)).decode()
        if self._fast_sender.put(key, content, size_bytes=part.size_bytes, sha256=checksum):
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
        with translated(), self._fast_sender.learning("PutObject", key):
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=key, Body=body, ChecksumSHA256=checksum
                )
            except ClientError as exc:
                if code_of(exc) in FORBIDDEN:
                    raise _forbidden("s3:PutObject", key) from exc
                raise

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

    def put_manifest(self, manifest: Manifest) -> str:
        """Store a manifest under a new key, and return the key.

        If the answer to an earlier try was lost, the same manifest is stored already, and its key
        is returned.
        """
        body = manifest.as_json()
        if len(body) > MAX_MANIFEST_BYTES:  # readers would refuse it
            raise CheckpointError(
                f"the list of the checkpoint's files has {len(body):,} bytes, more than "
                f"{MAX_MANIFEST_BYTES:,}; pack small files into archives"
            )
        for revision in range(MAX_REVISIONS):
            key = identity.manifest_key(
                self._run_id, save=manifest.save, attempt=manifest.attempt, revision=revision
            )
            if self._put_if_absent(key, body) or self._get(key, most=MAX_MANIFEST_BYTES) == body:
                return key
        raise CheckpointError(f"save {manifest.save} has {MAX_REVISIONS} manifests already")

    def get_manifest(self, key: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError when it is missing or cannot be read.

        Manifests name others by their keys, and only those of this run are followed.
        """
        folders = (identity.manifest_prefix(self._run_id), identity.partial_prefix(self._run_id))
        if not key.startswith(folders):
            raise DamagedCheckpointError(f"{key[:200]!a} is not a manifest of {self._run_id}")
        return Manifest.from_json(self._get(key, most=MAX_MANIFEST_BYTES, ChecksumMode="ENABLED"))

    def manifest_keys(self) -> list[str]:
        """Return the keys of all manifests, the newest save first."""
        return sorted(
            (key for key in self._keys(identity.manifest_prefix(self._run_id))), reverse=True
        )

    def delete_manifest(self, key: str) -> None:
        """Remove a manifest unless it is already gone."""
        self._delete([key])

    def put_partial(self, manifest: Manifest) -> None:
        """Store the manifest of a node's unfinished checkpoint; a later one replaces it."""
        with translated():
            self._client.put_object(
                Bucket=self._bucket,
                Key=identity.partial_key(self._run_id, manifest.attempt, self._rank),
                Body=manifest.as_json(),
                ContentType="application/json",
                ChecksumAlgorithm="SHA256",
            )

    def partial_keys(self) -> list[str]:
        """Return the keys of unfinished checkpoints' manifests, the highest attempt first."""
        return sorted(self._keys(identity.partial_prefix(self._run_id)), reverse=True)

    def delete_partials(self) -> None:
        """Remove the manifests of unfinished checkpoints, once a newer whole one is stored."""
        self._delete(self.partial_keys())

    def delete_parts(self, digests: Iterable[str]) -> None:
        """Remove parts that no manifest needs any more."""
        self._delete([identity.part_key(self._run_id, digest) for digest in digests])

    def parts(self) -> Iterator[StoredPart]:
        """Yield every part of the run that is stored, with its age."""
        prefix = identity.part_key(self._run_id, "")
        for item in self._objects(prefix):
            yield StoredPart(
                sha256=item["Key"].removeprefix(prefix),
                size_bytes=item["Size"],
                stored_at=item["LastModified"],
            )

    def _part_key(self, part: Part) -> str:
        if DIGEST.fullmatch(part.sha256) is None:  # it may come from a stored document
            raise DamagedCheckpointError(f"{part.sha256[:100]!a} is not the name of a part")
        return identity.part_key(self._run_id, part.sha256)

    def _put_if_absent(self, key: str, body: bytes) -> bool:
        for _ in range(MAX_CONFLICTS):
            with translated():
                try:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=key,
                        Body=body,
                        ContentType="application/json",
                        ChecksumAlgorithm="SHA256",
                        IfNoneMatch="*",
                    )
                except ClientError as exc:
                    if code_of(exc) in ALREADY_THERE:
                        return False
                    if code_of(exc) in CONFLICT:
                        continue
                    if code_of(exc) in FORBIDDEN:
                        raise _forbidden("s3:PutObject", key) from exc
                    raise
            return True
        raise TransientError(f"another writer keeps writing {key}; try again")

    def _get(self, key: str, *, most: int, **options: Any) -> bytes:
        with translated(), self._fast_sender.learning("GetObject", key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, **options)
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    raise DamagedCheckpointError(f"{key} is missing") from exc
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
