"""Permissions that an attempt needs on its instance, tested with calls that change nothing."""

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.clients import Clients
from runctl.aws.errors import code_of, translated
from runctl.model import identity
from runctl.model.errors import RunctlError

REFUSALS = frozenset({"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"})
PROBE = "runctl-check"


def missing_permissions(
    clients: Clients, *, table: str, bucket: str, log_group: str
) -> Iterator[str]:
    """Yield a sentence for each call that the role of this instance does not permit.

    Only one or two calls of each service are tested: a role that lacks one lacks the policy.
    """
    s3, key = clients.get("s3"), f"{identity.run_prefix(PROBE)}probe"
    probes: list[tuple[str, Callable[[], Any]]] = [
        (
            f"dynamodb:GetItem on the table {table}",
            lambda: clients.get("dynamodb").get_item(
                TableName=table,
                Key={name: {"S": value} for name, value in identity.run_key(PROBE).items()},
            ),
        ),
        (f"s3:GetObject on s3://{bucket}/{key}", lambda: s3.get_object(Bucket=bucket, Key=key)),
        (
            f"s3:ListBucket on {bucket}",
            lambda: s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1),
        ),
        (
            f"logs:CreateLogStream in {log_group}",
            lambda: clients.get("logs").create_log_stream(
                logGroupName=log_group, logStreamName=PROBE
            ),
        ),
    ]
    for action, call in probes:
        try:
            with translated():
                if not _is_permitted(call):
                    yield f"the role of this instance lacks {action}"
        except RunctlError as exc:
            yield f"{action} cannot be tested: {exc}"


def _is_permitted(call: Callable[[], Any]) -> bool:
    """Whether AWS permits a call; any other refusal, such as of a missing key, shows that it does.

    Raises errors that say nothing about the permission, such as an unreachable service.
    """
    try:
        call()
    except ClientError as exc:
        return code_of(exc) not in REFUSALS
    return True
