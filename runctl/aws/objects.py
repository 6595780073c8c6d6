"""S3 objects of requests: checks that the agent can read them, uploads of packed projects."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.code_archive import read_context
from runctl.aws.errors import code_of, message_of, translated
from runctl.aws.missing_objects import MISSING
from runctl.model import identity
from runctl.model.build_context import BuildContext
from runctl.model.errors import NotFoundError, UnexpectedAwsError
from runctl.model.s3_uri import split_s3_uri

FORBIDDEN = frozenset({"403", "AccessDenied", "Forbidden"})
# The answers to a write whose condition about an existing object does not hold.
UNFULFILLED = frozenset({"404", "NoSuchKey", "412", "PreconditionFailed"})
ELSEWHERE = frozenset({"301", "400", "PermanentRedirect", "AuthorizationHeaderMalformed"})


class S3Objects:
    """Implements `runctl.control.ports.Objects`; `bucket` is the deployment's own."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def uri(self, key: str) -> str:
        """Return the s3:// URI of a key in the deployment's bucket."""
        return f"s3://{self._bucket}/{key}"

    def problem_with(self, uri: str) -> str | None:
        """Return why the agent cannot read an s3:// object, with the remedy, or None."""
        bucket, key = split_s3_uri(uri)
        if bucket != self._bucket and (problem := self.problem_with_bucket(bucket)):
            return problem
        with translated():
            try:
                self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as exc:
                code = code_of(exc)
                if code in MISSING:
                    return f"{uri} does not exist; upload it first"
                if code in FORBIDDEN:
                    return (
                        f"{uri} does not exist or may not be read; upload it, or name the bucket "
                        "in the context `readable_buckets` and deploy again"
                    )
                if code in ELSEWHERE:
                    return (
                        f"{uri} is in another region than this deployment; copy it to this region"
                    )
                raise
        return None

    def problem_with_bucket(self, bucket: str) -> str | None:
        """Return why a bucket cannot be used from here, with the remedy, or None.

        S3 names the region of a bucket even to callers who may not read it.
        """
        return self._problem_with_bucket(bucket, f"copy the object to {self._bucket}")

    def problem_with_target(self, uri: str) -> str | None:
        """Return why a prefix cannot be one for results, with the remedy, or None.

        Nothing is written, so it may be one for which the deployment lacks the permission.
        """
        bucket, prefix = split_s3_uri(uri)
        if bucket != self._bucket:
            return self._problem_with_bucket(bucket, "choose a bucket of this region")
        return misplaced(uri, prefix, own=self.uri(identity.OUTPUTS_PREFIX)) or None

    def _problem_with_bucket(self, bucket: str, remedy: str) -> str | None:
        with translated():
            try:
                answer = self._client.head_bucket(Bucket=bucket)
                metadata = answer["ResponseMetadata"]
            except ClientError as exc:
                if code_of(exc) in {*MISSING, "NoSuchBucket"}:
                    return f"there is no bucket {bucket}; check the name"
                if code_of(exc) not in FORBIDDEN | ELSEWHERE:
                    raise
                metadata = exc.response["ResponseMetadata"]
        here = self._client.meta.region_name
        there = metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region", here)
        if there == here:
            return None
        return f"the bucket {bucket} is in {there}, this deployment in {here}; {remedy}"

    def problem_with_writing(self, uri: str) -> str | None:
        """Return why runs cannot write below a prefix, with the remedy, or None.

        A write on a condition that no object fulfills needs the permission, and stores nothing.
        """
        bucket, prefix = split_s3_uri(uri)
        own = self.uri(identity.OUTPUTS_PREFIX)
        if bucket == self._bucket and (problem := misplaced(uri, prefix, own=own)):
            return problem
        with translated():
            try:
                self._client.put_object(
                    Bucket=bucket, Key=f"{prefix}.runctl", IfMatch='"no-object"', Body=b""
                )
            except ClientError as exc:
                if code_of(exc) in UNFULFILLED:
                    return None
                if problem := explain_write(exc, uri, own=own):
                    return problem
                raise
        return None

    def read_context(self, uri: str, *, texts: Collection[str]) -> BuildContext:
        """Return what a build would see of a packed project, with the contents of some files."""
        return read_context(self._client, uri, texts=texts)

    def size_of(self, uri: str) -> int:
        """Return the size of an s3:// object in bytes, 0 if it cannot be read."""
        bucket, key = split_s3_uri(uri)
        with translated():
            try:
                return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])
            except ClientError as exc:
                if code_of(exc) in MISSING | FORBIDDEN | ELSEWHERE:
                    return 0
                raise

    def exists(self, key: str) -> bool:
        """Whether our bucket has the object."""
        with translated():
            try:
                self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as exc:
                if code_of(exc) in MISSING:
                    return False
                raise
        return True

    def put_if_absent(
        self, key: str, path: Path, *, progress: Callable[[int], object] = lambda _: None
    ) -> bool:
        """Upload a file unless the bucket has the key; False when it had.

        For keys that name their content: two uploads of the same key write the same bytes.
        `progress` is called with the number of bytes sent since its last call.
        """
        if self.exists(key):
            return False
        try:
            with translated():
                self._client.upload_file(str(path), self._bucket, key, Callback=progress)
        except UnexpectedAwsError as exc:
            if exc.code == "NoSuchBucket":
                raise NotFoundError(f"there is no bucket {self._bucket}; run `cdk deploy`") from exc
            raise
        return True


def misplaced(uri: str, prefix: str, *, own: str) -> str:
    """Return why runs do not write below a prefix of the deployment's bucket, or an empty text.

    `own` is where they do.
    """
    if prefix.startswith(identity.OUTPUTS_PREFIX):
        return ""
    return f"runs do not write to {uri} of the deployment's own bucket; choose {own}…/"


def explain_write(exc: ClientError, uri: str, *, own: str) -> str:
    """Return why a write below a prefix was refused, with the remedy; empty for other reasons.

    `own` is where runs may always write.
    """
    code = code_of(exc)
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code in {"NoSuchBucket", *MISSING}:
        return f"there is no bucket {bucket}; check the name"
    if code in FORBIDDEN:
        return (
            f"{uri} may not be written ({message_of(exc) or code}); name the bucket in the context "
            f"`writable_buckets` and deploy again, or choose a prefix below {own}"
        )
    if code in ELSEWHERE:
        return f"{uri} is in another region than this deployment; choose a bucket of this region"
    return ""
