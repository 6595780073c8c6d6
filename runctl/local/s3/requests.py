# ruff: noqa: SLF001 - it answers with ministack's errors
"""Requests to S3: long contents are stored and hashed in other threads, and sent in portions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ministack import app as ministack
from ministack.core.responses import StreamingResponse
from ministack.services import s3

from runctl.local.s3.bodies import Body
from runctl.local.s3.current import answering
from runctl.local.s3.hashing import BodyHasher

logger = logging.getLogger(__name__)

Answer = tuple[int, dict[str, Any], Any]
_LONG = 1024 * 1024
_CHUNK = 1024 * 1024


def install(hasher: BodyHasher) -> None:
    """Change how ministack answers requests to S3, once."""
    handle = ministack.SERVICE_HANDLERS["s3"]

    async def handle_request(
        method: str, path: str, headers: dict[str, str], content: bytes, query: Any
    ) -> Answer:
        try:
            prepared = None
            if len(content) > _LONG:
                prepared = await asyncio.to_thread(hasher.prepare, content, headers)
            with answering(prepared):
                status, answered, body = await handle(method, path, headers, content, query)
            if isinstance(body, Body):
                answered["Content-Length"] = str(len(body))
                body = StreamingResponse(_sender(body)) if len(body) > _LONG else bytes(body)
        except OSError as exc:
            logger.warning("%s %s failed: %s", method, path, exc)
            message = f"The disk of the local cloud failed: {exc.strerror or exc}"
            status, answered, body = s3._error("InternalError", message, 500, path)
        return status, answered, body

    ministack.SERVICE_HANDLERS["s3"] = handle_request


def _sender(body: Body) -> Callable[[Callable[[Any], Awaitable[None]], Any], Awaitable[None]]:
    async def send_body(send: Callable[[Any], Awaitable[None]], _receive: Any) -> None:
        for chunk in body.chunks(_CHUNK):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_body
