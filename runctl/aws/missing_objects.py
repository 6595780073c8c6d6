"""Objects that are missing, for a session that may not list the whole bucket.

S3 answers 403 and not 404 for a missing object, unless the caller may list the bucket. The session
of a run may do so only below some prefixes, and a GET has no prefix: it is listed afterwards, which
costs a request only if the answer was 403.
"""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.errors import code_of
from runctl.model.errors import NotFoundError

# The codes of S3's answers, which has other ones for HEAD, without a body.
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
FORBIDDEN = frozenset({"403", "AccessDenied"})
_ASKED = "runctl_asked"


def get_object(client: Any, bucket: str, key: str) -> Any:
    """Return S3's answer with an object; raises NotFoundError if there is none."""
    try:
        return client.get_object(Bucket=bucket, Key=key)
    except ClientError as exc:
        if code_of(exc) in MISSING:
            raise NotFoundError(f"s3://{bucket}/{key} does not exist") from exc
        raise


def distinguish_missing(client: Any) -> None:
    """Let GetObject of an S3 client answer NoSuchKey for what is not there."""
    events = client.meta.events

    def remember(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context[_ASKED] = (params.get("Bucket"), params.get("Key"))

    def correct(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        error = parsed.get("Error", {})
        bucket, key = context.get(_ASKED, (None, None))
        if error.get("Code") not in FORBIDDEN or not bucket or not key:
            return
        if _is_missing(client, bucket, key):
            parsed["Error"] = {
                **error,
                "Code": "NoSuchKey",
                "Message": "The specified key does not exist.",
            }

    events.register("provide-client-params.s3.GetObject", remember)
    events.register("after-call.s3.GetObject", correct)


def _is_missing(client: Any, bucket: str, key: str) -> bool:
    """Whether a listing shows that there is no such object; False if it may not be listed."""
    try:
        answer = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except (BotoCoreError, ClientError):
        return False
    # The key itself sorts before all that it begins.
    return all(found["Key"] != key for found in answer.get("Contents", ()))
