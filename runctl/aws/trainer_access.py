"""Short-lived credentials for a trainer, limited to its own run."""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.aws.errors import translated
from runctl.model import identity

# The limit for a role that is assumed with the credentials of another role.
SESSION_LIFETIME = timedelta(hours=1)
MAX_SESSION_NAME_LENGTH = 64
ROLE = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::\d{12}:role/\S+")


@dataclass(frozen=True, kw_only=True)
class SessionCredentials:
    """Credentials of a session, and when they expire."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)
    expires_at: datetime

    def as_document(self) -> dict[str, str]:
        """Return what AWS's SDKs read from an endpoint for container credentials."""
        return {
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret_key,
            "Token": self.token,
            "Expiration": self.expires_at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class TrainerAccess:
    """Assumes the trainer's role for one attempt of one run."""

    def __init__(self, sts: Any, *, role_arn: str, bucket: str, run_id: str, attempt: int) -> None:
        self._sts = sts
        self._role_arn = role_arn
        self._policy = session_policy(role_arn, bucket=bucket, run_id=run_id)
        self._session = f"{attempt:04d}-{run_id}"[:MAX_SESSION_NAME_LENGTH]

    def fetch(self) -> SessionCredentials:
        """Return fresh credentials.

        Raises RefusedError if the machine's role may not assume the trainer's, or TransientError if
        STS cannot be reached. A lost answer costs nothing: an unused session expires.
        """
        with translated():
            answer = self._sts.assume_role(
                RoleArn=self._role_arn,
                RoleSessionName=self._session,
                Policy=self._policy,
                DurationSeconds=int(SESSION_LIFETIME.total_seconds()),
            )["Credentials"]
        return SessionCredentials(
            access_key=answer["AccessKeyId"],
            secret_key=answer["SecretAccessKey"],
            token=answer["SessionToken"],
            expires_at=answer["Expiration"],
        )


def session_policy(role_arn: str, *, bucket: str, run_id: str) -> str:
    """Return the policy that limits a session of the trainer's role to one run.

    The session may read all objects of its own run and write its outputs, but never checkpoints,
    whose parts and pointer only the agent with the fence may write. In other buckets it may do
    whatever the role permits.
    """
    match = ROLE.fullmatch(role_arn)
    arn = f"arn:{match['partition'] if match else 'aws'}:s3:::{bucket}"
    own, outputs = identity.run_prefix(run_id), identity.output_prefix(run_id)
    statements: list[dict[str, Any]] = [
        {"Action": "s3:GetObject", "Resource": f"{arn}/{own}*"},
        {
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
            "Resource": f"{arn}/{outputs}*",
        },
        {
            "Action": "s3:ListBucket",
            "Resource": arn,
            "Condition": {"StringLike": {"s3:prefix": f"{own}*"}},
        },
        {"Action": ["s3:GetObject", "s3:ListBucket"], "NotResource": [arn, f"{arn}/*"]},
    ]
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", **statement} for statement in statements],
    }
    return json.dumps(document, separators=(",", ":"))
