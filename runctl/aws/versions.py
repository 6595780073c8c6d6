"""The run's pinned versions in S3: written once, read by every attempt and by `status`."""

import json
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model import identity
from runctl.model.versions import Versions

# Without s3:ListBucket S3 answers AccessDenied for a missing object.
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404", "AccessDenied"})
_THERE = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})


class VersionStore:
    """One object below the run's prefix for each generation of its environment."""

    def __init__(self, client: Any, *, bucket: str, run_id: str, generation: int = 0) -> None:
        self._client = client
        self._bucket = bucket
        self._run_id = run_id
        self._generation = generation
        self._key = identity.versions_key(run_id, generation)

    def of_generation(self, generation: int) -> "VersionStore":
        """Return the store of a generation of the same run."""
        if generation == self._generation:
            return self
        return VersionStore(
            self._client, bucket=self._bucket, run_id=self._run_id, generation=generation
        )

    def read(self) -> Versions | None:
        """Return the recorded versions; None if there are none, or if they cannot be read."""
        with translated():
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=self._key)["Body"].read()
            except ClientError as exc:
                if code_of(exc) in _MISSING:
                    return None
                raise
        try:
            return Versions.from_document(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def record(self, versions: Versions) -> Versions:
        """Record versions unless some are recorded; return the recorded ones. May be repeated."""
        body = json.dumps(versions.as_document(), separators=(",", ":")).encode()
        with translated():
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key, Body=body, IfNoneMatch="*"
                )
            except ClientError as exc:
                if code_of(exc) not in _THERE:
                    raise
                return self.read() or versions
        return versions
