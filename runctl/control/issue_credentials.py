"""IssueCredentials: gives an instance a session that is limited to its own run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timezone
from typing import Any

from runctl.control.ports.access import AccessServices
from runctl.model import identity
from runctl.model.caller import BadIdentityError, Caller
from runctl.model.errors import RequestError
from runctl.model.node import NodeId
from runctl.model.session_credentials import SessionCredentials
from runctl.policy.run_access import Denial, Grant, Known, Purpose, decide_access

INSTANCE_ID = re.compile(r"i-[0-9a-f]{4,32}")
# What an instance sends of its own accord is short; anything else was made by somebody else.
MAX_URL_CHARACTERS = 8192


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What an instance is answered; only the answer itself contains the credentials."""

    status: str
    reason: str = ""
    node: NodeId | None = None
    credentials: SessionCredentials | None = None

    def as_document(self) -> dict[str, Any]:
        """Return the answer."""
        document: dict[str, Any] = {"status": self.status}
        if self.reason:
            document["reason"] = self.reason
        if self.node is not None:
            document |= {
                "run_id": self.node.run_id,
                "attempt": self.node.attempt,
                "rank": self.node.rank,
            }
        if (held := self.credentials) is not None:
            expires_at = held.expires_at.astimezone(timezone.utc)
            document["credentials"] = {
                "access_key": held.access_key,
                "secret_key": held.secret_key,
                "token": held.token,
                "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        return document


def issue_credentials(services: AccessServices, event: Mapping[str, Any]) -> Issued:
    """Return a session for the instance that signed the identity in `event`, or why not."""
    try:
        purpose = _purpose(event)
        caller = services.identities.verify(_url(event))
        instance_id = _instance_of(services, caller)
    except BadIdentityError as exc:
        return Issued(status="refused", reason=str(exc))
    known = _find(services, instance_id)
    problem = _problem_with_role(services, caller, known)
    if problem:
        return Issued(status="refused", reason=problem)
    decided = decide_access(
        known, purpose, now=services.clock.now(), claimed=_claimed(services, event, known)
    )
    if isinstance(decided, Denial):
        return Issued(status=decided.status, reason=decided.reason, node=known.node)
    return _open(services, decided)


def _open(services: AccessServices, grant: Grant) -> Issued:
    try:
        credentials = services.run_sessions.open(grant)
    except RequestError as exc:
        return Issued(status="refused", reason=str(exc), node=grant.node)
    return Issued(status="issued", node=grant.node, credentials=credentials)


def _purpose(event: Mapping[str, Any]) -> Purpose:
    try:
        return Purpose(event.get("purpose"))
    except ValueError:
        known = ", ".join(purpose.value for purpose in Purpose)
        raise BadIdentityError(f"purpose: not one of {known}") from None


def _url(event: Mapping[str, Any]) -> str:
    found = event.get("identity")
    url = found.get("url") if isinstance(found, Mapping) else None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARACTERS:
        raise BadIdentityError("identity.url: missing, or not the URL of a request to STS")
    return url


def _instance_of(services: AccessServices, caller: Caller) -> str:
    if caller.account != services.instance_roles.account:
        raise BadIdentityError(f"identity: the account {caller.account} is not the deployment's")
    if not INSTANCE_ID.fullmatch(caller.session):
        raise BadIdentityError("identity: not the session of an instance")
    return caller.session


def _find(services: AccessServices, instance_id: str) -> Known:
    node = services.ledger.find_instance(instance_id)
    if node is None:
        return Known(instance_id=instance_id)
    run = services.ledger.find_run(node.run_id)
    group = "" if run is None else run.request.group
    return Known(
        instance_id=instance_id,
        node=node,
        run=run,
        attempt=services.ledger.find_attempt(node.run_id, node.attempt),
        warm=services.groups.find_warm(group, instance_id) if group else None,
    )


def _problem_with_role(services: AccessServices, caller: Caller, known: Known) -> str:
    """Return why a session that is named like an instance is not that instance's; empty if it is.

    A principal that assumes a role chooses the name of the session, except for EC2.
    """
    if caller.role == services.instance_roles.own:
        return ""
    other = f"identity: {caller.role} is not the role of the deployment's instances"
    attempt = known.attempt
    if known.node is not None and (attempt is None or not attempt.is_on_existing_instance):
        return other
    if caller.role == services.instance_roles.role_of(known.instance_id):
        return ""
    return f"{other}, nor that of the instance profile of {known.instance_id}"


def _claimed(services: AccessServices, event: Mapping[str, Any], known: Known) -> Known | None:
    """Return what the ledger knows of the attempt that an unknown instance claims to have."""
    claim = event.get("claimed")
    if known.node is not None or not isinstance(claim, Mapping):
        return None
    run_id, number = claim.get("run_id"), claim.get("attempt")
    if not isinstance(run_id, str) or not identity.RUN_ID.fullmatch(run_id):
        return None
    if type(number) is not int or not 0 < number < 10_000:
        return None
    return Known(
        instance_id=known.instance_id,
        run=services.ledger.find_run(run_id),
        attempt=services.ledger.find_attempt(run_id, number),
    )
