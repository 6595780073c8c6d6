"""IssueCredentials: gives an instance a session that is limited to its own run."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timezone
from typing import Any

from runctl.control.instance_proof import identify_instance, problem_with_role
from runctl.control.ports.access import AccessServices
from runctl.model import identity
from runctl.model.caller import BadIdentityError, Caller
from runctl.model.errors import RequestError
from runctl.model.node import NodeId
from runctl.model.session_credentials import SessionCredentials
from runctl.policy.run_access import Denial, Grant, Known, Purpose, decide_access


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
        caller = identify_instance(services, event)
    except BadIdentityError as exc:
        return Issued(status="refused", reason=str(exc))
    known = _find(services, caller.session)
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
    """Return why a session with the name of an instance is not that instance's; empty if it is."""
    other = problem_with_role(services, caller)
    if not other:
        return ""
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
