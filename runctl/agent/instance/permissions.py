"""Whether this instance's role has what an attempt needs, asked before one begins."""

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.clients import Clients
from runctl.aws.errors import code_of
from runctl.model import identity

REFUSALS = frozenset({"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"})
PROBE = "runctl-check"


def missing_permissions(
    clients: Clients, *, table: str, bucket: str, log_group: str
) -> Iterator[str]:
    """Yield a sentence for each call that the role does not permit; nothing is changed by them.

    Only the first thing of each service: whoever lacks one lacks the policy.
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
    for what, ask in probes:
        try:
            ask()
        except ClientError as exc:
            # Anything else, such as a key that is not there, is an answer to somebody who may ask.
            if code_of(exc) in REFUSALS:
                yield f"the role of this instance lacks {what}"
        except BotoCoreError as exc:
            yield f"{what} cannot be asked for: {exc}"
