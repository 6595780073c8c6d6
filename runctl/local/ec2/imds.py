"""The metadata service of an instance: version 2 only, each instance on its own port."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from runctl.local.core import peers

if TYPE_CHECKING:
    from runctl.local.core.instance import Instance

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
}
_MAX_TTL_SECONDS = 21600
_MARKER = "X-aws-ec2-metadata-token"


class Metadata:
    """Answers the metadata requests of an instance."""

    def __init__(self, instance: Instance, *, credentials: Callable[[], dict[str, str]]) -> None:
        self._instance = instance
        self._credentials = credentials
        self._tokens: dict[str, float] = {}
        # On EC2 only the instance reaches the service. Here every user of the machine reaches the
        # port, so the peer has to be a process of this user and to know the path, which keeps out
        # web pages. The path alone would not suffice: every user sees the arguments of curl.
        self._secret = secrets.token_urlsafe(32)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen, and return the URL that only the instance gets."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/{self._secret}"

    def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client, server = (writer.get_extra_info(name) for name in ("peername", "sockname"))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            is_own = peers.is_own(client, server)
            while await self._serve_one(reader, writer, is_own=is_own):
                pass
        writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_own: bool
    ) -> bool:
        request_line = (await reader.readline()).decode("latin-1")
        if not request_line.strip():
            return False
        method, target, _ = request_line.split()
        headers: dict[str, str] = {}
        while line := (await reader.readline()).decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if length := int(headers.get("content-length", "0")):
            await reader.readexactly(length)
        secret, _, path = unquote(target.partition("?")[0]).strip("/").partition("/")
        if is_own and hmac.compare_digest(secret.encode(), self._secret.encode()):
            status, body, extra = self._answer(method, path.strip("/"), headers)
        else:
            status, body, extra = 403, "", ""
        data = body.encode()
        keep = headers.get("connection", "").lower() != "close"
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(data)}\r\nServer: EC2ws\r\n{extra}"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        writer.write(head.encode("latin-1") + (b"" if method == "HEAD" else data))
        await writer.drain()
        return keep

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str, str]:
        if path == "latest/api/token":
            return self._new_token(method, headers)
        if method not in {"GET", "HEAD"}:
            return 405, "", ""
        expiry = self._tokens.get(headers.get(_MARKER.lower(), ""), 0.0)
        if expiry < time.monotonic():
            return 401, "", ""
        body = self._look_up(path)
        return (404, "", "") if body is None else (200, body, "")

    def _new_token(self, method: str, headers: dict[str, str]) -> tuple[int, str, str]:
        if method != "PUT":
            return 405, "", ""
        ttl = headers.get(f"{_MARKER.lower()}-ttl-seconds", "")
        # A request that came through a proxy is refused, as on EC2.
        if (
            not ttl.isdigit()
            or not 1 <= int(ttl) <= _MAX_TTL_SECONDS
            or "x-forwarded-for" in headers
        ):
            return 400, "", ""
        token = secrets.token_urlsafe(40)
        self._tokens[token] = time.monotonic() + int(ttl)
        return 200, token, f"{_MARKER}-TTL-Seconds: {ttl}\r\n"

    def _look_up(self, path: str) -> str | None:
        instance = self._instance
        if path == "latest/user-data":
            return instance.user_data.decode(errors="replace") or None
        if path == "latest/dynamic/instance-identity/document":
            return json.dumps(self._identity(), indent=2)
        prefix, _, item = path.partition("latest/meta-data")
        if prefix or not path.startswith("latest/meta-data"):
            return None
        tree = self._tree()
        item = item.strip("/")
        if item in tree:
            return tree[item]
        below = {
            key[len(item) + 1 if item else 0 :].split("/")[0] + ("/" if "/" in rest else "")
            for key in tree
            if not item or key.startswith(f"{item}/")
            for rest in [key[len(item) + 1 if item else 0 :]]
        }
        return "\n".join(sorted(below)) or None

    def _tree(self) -> dict[str, str]:
        instance = self._instance
        tree = {
            "ami-id": instance.image_id,
            "instance-id": instance.instance_id,
            "instance-type": instance.instance_type,
            "instance-life-cycle": instance.lifecycle,
            "local-ipv4": instance.reachable_ip,
            "local-hostname": instance.private_dns,
            "hostname": instance.private_dns,
            "placement/availability-zone": instance.zone,
            "placement/availability-zone-id": instance.subnet.zone_id,
            "placement/region": instance.region,
            "services/domain": "amazonaws.com",
        }
        if instance.tags_in_metadata:
            tree |= {f"tags/instance/{key}": value for key, value in instance.tags.items()}
        if instance.notice:
            when = instance.notice.strftime("%Y-%m-%dT%H:%M:%SZ")
            tree["spot/instance-action"] = json.dumps({"action": "terminate", "time": when})
            tree["spot/termination-time"] = when
        if instance.rebalance:
            when = instance.rebalance.strftime("%Y-%m-%dT%H:%M:%SZ")
            tree["events/recommendations/rebalance"] = json.dumps({"noticeTime": when})
        tree["events/maintenance/scheduled"] = _maintenance(instance, {"active"})
        tree["events/maintenance/history"] = _maintenance(instance, {"completed", "canceled"})
        if instance.profile:
            role = instance.profile.role
            tree[f"iam/security-credentials/{role}"] = json.dumps(self._credentials())
            tree["iam/info"] = json.dumps(
                {
                    "Code": "Success",
                    "InstanceProfileArn": instance.profile.arn,
                    "InstanceProfileId": instance.profile.profile_id,
                }
            )
        return tree

    def _identity(self) -> dict[str, object]:
        instance = self._instance
        return {
            "accountId": instance.account,
            "architecture": instance.architecture,
            "availabilityZone": instance.zone,
            "imageId": instance.image_id,
            "instanceId": instance.instance_id,
            "instanceType": instance.instance_type,
            "pendingTime": instance.launched_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": instance.private_ip,
            "region": instance.region,
            "version": "2017-09-30",
        }


def _maintenance(instance: Instance, states: set[str]) -> str:
    """List the scheduled events in these states; without any, EC2 returns an empty list."""
    return json.dumps(
        [
            {
                "NotBefore": event.not_before.strftime("%d %b %Y %H:%M:%S GMT"),
                "Code": event.code,
                "Description": event.description,
                "EventId": event.event_id,
                "NotAfter": event.not_after.strftime("%d %b %Y %H:%M:%S GMT"),
                "State": event.state,
            }
            for event in instance.maintenance
            if event.state in states
        ]
    )
