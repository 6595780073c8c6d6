"""The front door: which request is answered here, which by ministack, and the record of both."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

from ministack import app as ministack
from ministack.core import iam_evaluator, responses

from runctl.local import iam, store, wire
from runctl.local.admin import Admin
from runctl.local.ec2 import Ec2
from runctl.local.events import EventBus
from runctl.local.fleets import Fleets
from runctl.local.instances import Instances
from runctl.local.journal import Journal
from runctl.local.knobs import Knobs
from runctl.local.market import Market
from runctl.local.wire import ApiError

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CREDENTIAL = re.compile(r"Credential=([^/]*)/[^/]*/([^/]*)/([^/]*)/aws4_request")
_ADMIN = "/_runctl/"


@dataclass
class Call:
    """One signed request to a service that the front door looks at."""

    scope: Scope
    service: str
    access_key: str
    body: bytes
    headers: Mapping[str, str]
    action: str = "?"
    request: dict[str, Any] = field(default_factory=dict)


class FrontDoor:
    """The ASGI application of the local cloud."""

    def __init__(
        self, *, ec2: Ec2, admin: Admin, instances: Instances, calls: Journal, account: str
    ) -> None:
        self._ec2, self._admin, self._instances = ec2, admin, instances
        self._calls, self._account = calls, account
        self.ready = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope."""
        if scope["type"] == "lifespan":
            return await self._live(scope, receive, send)
        if scope["type"] != "http":
            return await ministack.app(scope, receive, send)
        if scope["path"].startswith(_ADMIN):
            return await self._serve_admin(scope, receive, send)
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        match = _CREDENTIAL.search(headers.get("authorization", ""))
        if match is None or match.group(3) != "ec2":
            return await ministack.app(scope, receive, send)
        body = await _read_body(receive)
        call = Call(scope, match.group(3), match.group(1), body, headers)
        await self._serve_call(call, receive, send)

    def close(self) -> None:
        """End every instance."""
        self._instances.end_all()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.ready.set()

        await ministack.app(scope, receive, tell)

    async def _serve_admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        path = scope["path"].removeprefix(_ADMIN)
        try:
            payload = json.loads(body) if body else dict(parse_qsl(scope["query_string"].decode()))
            status, answer = 200, self._admin.answer(scope["method"], path, payload)
        except json.JSONDecodeError as exc:
            status, answer = 400, {"error": "BadRequest", "message": str(exc)}
        except ApiError as exc:
            status, answer = exc.status, {"error": exc.code, "message": exc.message}
        await _respond(send, status, "application/json", json.dumps(answer).encode())

    async def _serve_call(self, call: Call, receive: Receive, send: Send) -> None:
        responses.set_request_account_id(call.access_key)
        responses.set_request_region(_region(call))
        flat = wire.form(call.body)
        call.action = flat.get("Action", "?")
        try:
            if not self._ec2.knows(call.action):
                return await self._pass_on(call, receive, send)
            call.request = wire.read_request(call.action, flat)
            if not self._ec2.answers(call.action, call.request):
                return await self._pass_on(call, receive, send)
            _pin_signature(call)
            gate = iam.Gate(service="ec2", access_key=call.access_key, tags_of=store.tags_of)
            answer = self._ec2.answer(call.action, dict(call.request), gate)
            body = wire.render_response(call.action, answer)
        except ApiError as exc:
            self._record(call, outcome=exc.code, message=exc.message)
            body = wire.render_error(exc.code, exc.message)
            return await _respond(send, exc.status, "text/xml;charset=UTF-8", body)
        except Exception as exc:
            logger.exception("%s failed", call.action)
            self._record(call, outcome="InternalError", message=repr(exc))
            body = wire.render_error("InternalError", f"the local cloud broke: {exc!r}")
            return await _respond(send, 500, "text/xml;charset=UTF-8", body)
        self._record(call, outcome="ok", answer=answer)
        return await _respond(send, 200, "text/xml;charset=UTF-8", body)

    async def _pass_on(self, call: Call, receive: Receive, send: Send) -> None:
        unread = [call.body]

        async def replay() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self._record(call, outcome="ok" if status < 400 else f"HTTP {status}")  # noqa: PLR2004
            await send(message)

        await ministack.app(call.scope, replay, listen)

    def _record(self, call: Call, *, outcome: str, **fields: Any) -> None:
        request = call.request or {
            key: value
            for key, value in wire.form(call.body).items()
            if key not in {"Action", "Version"}
        }
        self._calls.add(
            service=call.service,
            action=call.action,
            caller=iam.caller_arn(call.access_key),
            params=_plain(request),
            outcome=outcome,
            **_plain(fields),
        )


def build(home: Path, *, url: str, account: str, region: str) -> FrontDoor:
    """Put a local cloud together."""
    market, knobs, journal, calls = Market(), Knobs(), Journal(), Journal()
    instances = Instances(
        home,
        endpoint=url,
        market=market,
        knobs=knobs,
        journal=journal,
        bus=EventBus(knobs, account=account, region=region),
        issue_credentials=iam.RoleCredentials().issue,
    )
    admin = Admin(
        market=market,
        instances=instances,
        knobs=knobs,
        journal=journal,
        calls=calls,
        account=account,
        region=region,
    )
    ec2 = Ec2(instances, Fleets(instances))
    wire.service_model("ec2")  # now, not in the first call
    return FrontDoor(ec2=ec2, admin=admin, instances=instances, calls=calls, account=account)


def _pin_signature(call: Call) -> None:
    """Hand the request to ministack's signature check, which the first policy check makes."""
    if not iam.is_enforced():
        return
    scope = call.scope
    raw_path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
    query = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
    iam_evaluator.pin_request_origin((scope.get("client") or ("127.0.0.1",))[0], False)
    iam_evaluator.pin_signed_request(scope["method"], raw_path, query, scope["headers"])
    iam_evaluator.pin_signed_body(call.body)


def _region(call: Call) -> str | None:
    match = _CREDENTIAL.search(call.headers.get("authorization", ""))
    return match.group(2) if match else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


async def _read_body(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _respond(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
