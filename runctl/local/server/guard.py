"""The guard in front of the gateway, which admits only the owner of the local cloud.

Other users of the machine can reach the loopback interface, and so can every web page that the
owner opens. A browser's request is recognized by what browsers always add, and refused; a name that
a page made to point here (DNS rebinding) is not a name of the local cloud; and every request proves
that its sender knows a key. Nothing is read from a body or done before that.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import uuid
from datetime import datetime, timezone
from urllib.parse import parse_qs, quote

from ministack.core import iam_actions, responses, router

from runctl.local.core import keys as local_keys
from runctl.local.core.keys import Keys
from runctl.local.server import signatures
from runctl.local.server.asgi import (
    Application,
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    read_headers,
    replaying,
    respond,
)

logger = logging.getLogger(__name__)

_KEY_HEADER = local_keys.HEADER.lower()
# CloudFormation gives each custom resource its own address, which cannot be guessed; on AWS it is a
# presigned URL.
_ANSWERS = ("/_ministack/cfn-response/", "/_ministack/cfn-signal/")
_FROM_BROWSERS = ("origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
_LONG = 1024 * 1024
_FORM = "application/x-www-form-urlencoded"
_BAD_REQUEST = frozenset({"InvalidRequest", "XAmzContentSHA256Mismatch"})


class Guard:
    """An ASGI application that forwards the owner's requests to another one."""

    def __init__(self, application: Application, *, keys: Keys, port: int, account: str) -> None:
        self._application, self._keys, self._account = application, keys, account
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection's scope."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
        elif scope["type"] != "http":
            logger.warning("refused: a %s connection", scope["type"])
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve(scope, receive, _without_cors(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope)
        if because := self._stranger(scope["method"], headers):
            logger.warning("refused: %s", because)
            await respond(send, 403, "text/plain", f"{because}\n".encode())
            return
        path = scope["path"]
        if path.startswith(local_keys.ADMIN_PATH):
            given = headers.get(_KEY_HEADER, "")
            if not hmac.compare_digest(given.encode(), self._keys.admin.encode()):
                await respond(send, 401, "application/json", _WRONG_KEY)
                return
        elif path.startswith("/_"):
            # The emulator's own pages reset it and hand out code; none of them asks for a key.
            if scope["method"] != "PUT" or not path.startswith(_ANSWERS):
                await respond(send, 403, "text/plain", b"this address is not served\n")
                return
        else:
            try:
                receive = await self._authenticate(scope, headers, receive)
            except signatures.Refusal as exc:
                await _refuse(scope, headers, send, exc)
                return
        await self._application(scope, receive, send)

    def _stranger(self, method: str, headers: dict[str, str]) -> str:
        """Return why a request cannot come from an AWS tool of the owner; empty if it can."""
        host = headers.get("host", "")
        if host.lower() not in self._hosts:
            return f"Host: {host[:100]!r} is not a name of the local cloud; use 127.0.0.1"
        for name in _FROM_BROWSERS:
            if name in headers:
                return f"{name.title()}: the local cloud does not answer web pages"
        if method == "OPTIONS":
            return "OPTIONS: the local cloud does not answer web pages"
        return ""

    async def _authenticate(
        self, scope: Scope, headers: dict[str, str], receive: Receive
    ) -> Receive:
        """Verify the signature; return what still yields the body."""
        raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        signed = signatures.verify(
            signatures.Request(scope["method"], raw_path.decode("latin-1"), query, headers),
            self._keys,
            now=datetime.now(timezone.utc),
            account=self._account,
        )
        if not signed.needs_body:
            return receive
        body = await read_body(receive)
        if len(body) > _LONG:  # others need not wait while it is hashed
            await asyncio.to_thread(signed.check_body, body)
        else:
            signed.check_body(body)
        return replaying(body, receive)


_WRONG_KEY = json.dumps(
    {
        "error": "Unauthorized",
        "message": f"{local_keys.HEADER}: missing or wrong; the key is in keys.json in the local "
        "cloud's folder, which only its owner can read",
    }
).encode()


def _without_cors(send: Send) -> Send:
    """Remove the headers with which the emulator lets any web page read an answer."""

    async def filtered(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", [])
                if not name.lower().startswith(b"access-control-")
            ]
            message = {**message, "headers": kept}
        await send(message)

    return filtered


async def _refuse(
    scope: Scope, headers: dict[str, str], send: Send, refusal: signatures.Refusal
) -> None:
    """Answer like the service whose signature was wrong."""
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    service = router.detect_service(scope["method"], scope["path"], headers, query)
    if "authorization" not in headers and headers.get("content-type", "").startswith(_FORM):
        # on AWS, the host names the service; all services of this protocol answer alike
        service = "sts"
    logger.warning("refused: %s to %s", refusal.code, service)
    status, answer, body = iam_actions.access_denied_response(
        service,
        "",
        "",
        str(uuid.uuid4()),
        error_code=refusal.code,
        message=refusal.message,
        headers=headers,
    )
    responses.fix_error_content_type(service, status, answer)
    status = 400 if refusal.code in _BAD_REQUEST else status
    extra = [(name.lower().encode(), str(value).encode()) for name, value in answer.items()]
    content_type = dict(extra).get(b"content-type", b"text/plain").decode()
    rest = [pair for pair in extra if pair[0] not in {b"content-type", b"content-length"}]
    body = b"" if scope["method"] == "HEAD" else body
    await respond(send, status, content_type, body, headers=rest)
