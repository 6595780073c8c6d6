"""Sessions of the roles of runs and of trainers, limited to one run by their tags and policies."""

from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.session_credentials import SessionCredentials
from runctl.policy.run_access import Grant, Reach
from runctl.policy.session_policy import (
    MAX_CHARACTERS,
    SHORT,
    Place,
    run_policy,
    trainer_policy,
    warm_policy,
)

# The limit for a role that is assumed with the credentials of another role.
LIFETIME = timedelta(hours=1)
MAX_NAME_LENGTH = 64
# What STS answers if policy and tags, packed together, exceed its limit.
_TOO_LARGE = "PackedPolicyTooLarge"


class RunSessions:
    """Implements `runctl.control.ports.access.Sessions`."""

    def __init__(
        self, sts: Any, *, run_role: str, trainer_role: str, place: Place, table: str
    ) -> None:
        self._sts = sts
        self._run_role = run_role
        self._trainer_role = trainer_role
        self._place = place
        self._table = table

    def open(self, grant: Grant) -> SessionCredentials:
        """Return the credentials of a new session."""
        for most in (MAX_CHARACTERS, SHORT):
            policy = self._policy(grant, most)
            with translated():
                try:
                    return self._assume(grant, policy)
                except ClientError as exc:
                    if code_of(exc) != _TOO_LARGE or most == SHORT:
                        raise
        raise AssertionError(grant)

    def _policy(self, grant: Grant, most: int) -> str:
        run_id = grant.node.run_id
        if grant.reach is Reach.TRAINER:
            return trainer_policy(run_id, self._place)
        if grant.reach is Reach.WARM:
            return warm_policy(self._place, table=self._table)
        return run_policy(grant.run.request, run_id, self._place, most=most)

    def _assume(self, grant: Grant, policy: str) -> SessionCredentials:
        is_trainer = grant.reach is Reach.TRAINER
        tags = [{"Key": name, "Value": value} for name, value in grant.tags.items()]
        answer = self._sts.assume_role(
            RoleArn=self._trainer_role if is_trainer else self._run_role,
            RoleSessionName=f"{grant.node.attempt:04d}-{grant.node.run_id}"[:MAX_NAME_LENGTH],
            Policy=policy,
            DurationSeconds=int(LIFETIME.total_seconds()),
            **({} if is_trainer else {"Tags": tags}),
        )["Credentials"]
        return SessionCredentials(
            access_key=answer["AccessKeyId"],
            secret_key=answer["SecretAccessKey"],
            token=answer["SessionToken"],
            expires_at=answer["Expiration"],
        )
