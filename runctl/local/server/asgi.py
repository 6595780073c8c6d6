"""Reading, answering and replaying HTTP requests, for every part of the local cloud's server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ministack.core.sigv4 import decode_header_value

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_headers(scope: Scope) -> dict[str, str]:
    """Return a request's headers by their names in lower case."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), decode_header_value(raw_value)
        # A header on several lines is signed as its values with commas between.
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def replaying(body: bytes, receive: Receive) -> Receive:
    """Replay a body that was read already, and then what follows it."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay


async def read_body(receive: Receive) -> bytes:
    """Read the whole body of a request."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def respond(
    send: Send,
    status: int,
    content_type: str,
    body: bytes,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send a complete answer."""
    about = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": about})
    await send({"type": "http.response.body", "body": body})
