"""The catalog of stored environments: what there is, who uses it, and its removal."""

from collections.abc import Sequence

from runctl.aws.environments import EnvironmentStore
from runctl.aws.errors import translated
from runctl.aws.parts import MAX_KEYS_PER_DELETE
from runctl.model.errors import (
    RefusedError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.identity import ENVIRONMENTS
from runctl.policy.environments import EnvironmentObject

_PASSING = frozenset({"InternalError", "ServiceUnavailable", "SlowDown"})


class EnvironmentCatalog(EnvironmentStore):
    """Implements `runctl.control.ports.EnvironmentCatalog`. Only people and functions use it."""

    def objects(self, prefix: str = "") -> list[EnvironmentObject]:
        """Return the objects below `environments/` whose further key has a prefix, by key."""
        return [
            EnvironmentObject(
                key=item["Key"], size_bytes=item["Size"], stored_at=item["LastModified"]
            )
            for item in self._objects(ENVIRONMENTS + prefix)
        ]

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is missing is fine, so it may be repeated.

        Raises RefusedError, TransientError or UnexpectedAwsError for one that cannot be removed;
        others may have been.
        """
        for start in range(0, len(keys), MAX_KEYS_PER_DELETE):
            batch = [{"Key": key} for key in keys[start : start + MAX_KEYS_PER_DELETE]]
            with translated():
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True}
                )
            for error in answer.get("Errors", ()):
                raise _refusal(error.get("Code", ""), error.get("Key", ""))


def _refusal(code: str, key: str) -> RunctlError:
    """Return the error of a key that S3 did not remove, although it answered the request."""
    if code == "AccessDenied":
        return RefusedError(
            f"S3 does not permit s3:DeleteObject on {key} (AccessDenied); allow it, then try again"
        )
    if code in _PASSING:
        return TransientError(f"S3 did not remove {key} ({code}); try again")
    return UnexpectedAwsError(f"S3 did not remove {key} ({code})", code=code)
