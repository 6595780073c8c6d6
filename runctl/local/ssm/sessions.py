"""The sessions of SSM: port forwarding to a port of an instance, which the plugin carries out."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from runctl.local.core import iam, records
from runctl.local.core.instance import Instance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ssm.agents import Agents
from runctl.model.permissions import REQUIRED

PORT_FORWARDING = "AWS-StartPortForwardingSession"


@dataclass
class _Session:
    """One session of a caller with an instance."""

    session_id: str
    token: str
    instance: Instance
    port: int
    is_terminated: bool = False


class Sessions:
    """Every session since the local cloud began."""

    def __init__(self, agents: Agents, *, endpoint: str) -> None:
        self._agents = agents
        self._endpoint = endpoint
        self._sessions: dict[str, _Session] = {}

    async def start(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Start a session for port forwarding (StartSession)."""
        target, document = request["Target"], request.get("DocumentName", "")
        authorize("StartSession", instance=[target], public_document=[document])
        if document != PORT_FORWARDING:
            raise ApiError(
                "InvalidDocument", f"The local cloud has sessions of {PORT_FORWARDING} only"
            )
        port = _port_of(request.get("Parameters", {}))
        try:
            instance = self._agents.find(target)
        except ApiError as exc:
            raise ApiError("TargetNotConnected", f"{target} is not connected.") from exc
        if instance.profile is not None:
            role = records.role_arn(instance.profile.role)
            for need in REQUIRED["ssm-agent", "session"]:
                if iam.denied_to_role(role, need.action, "*"):
                    raise ApiError("TargetNotConnected", f"{target} is not connected.")
        session = _Session(
            session_id=f"local-{secrets.token_hex(9)[:17]}",
            token=secrets.token_urlsafe(32),
            instance=instance,
            port=port,
        )
        self._sessions[session.session_id] = session
        return {
            "SessionId": session.session_id,
            "TokenValue": session.token,
            "StreamUrl": f"{self._endpoint}/{session.session_id}",
        }

    async def terminate(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """End a session (TerminateSession)."""
        authorize("TerminateSession", session=[request["SessionId"]])
        if (session := self._sessions.get(request["SessionId"])) is not None:
            session.is_terminated = True
        return {"SessionId": request["SessionId"]}

    def describe(self, session_id: str, token: str) -> dict[str, Any]:
        """Return the port of a session, and whether it is active, to the holder of its token."""
        session = self._sessions.get(session_id)
        if session is None or not secrets.compare_digest(session.token, token):
            raise ApiError("NotFound", f"there is no session {session_id} with this token")
        is_active = session.instance.is_alive and not session.is_terminated
        return {"port": session.port, "is_active": is_active}


def _port_of(parameters: dict[str, list[str]]) -> int:
    if unknown := set(parameters) - {"portNumber", "localPortNumber"}:
        raise ApiError("InvalidParameters", f"{PORT_FORWARDING} has no {sorted(unknown)}")
    text = (parameters.get("portNumber") or ["80"])[0]
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ApiError("InvalidParameters", f"portNumber: {text!r} is not a port")
    return int(text)
