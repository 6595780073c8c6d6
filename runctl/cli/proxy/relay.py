"""The relay of one client's connection: request by request, to whichever server is ready then."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from runctl.cli.proxy.copying import CHUNK_BYTES, PeerGone, Source, copy_body, pump
from runctl.cli.proxy.http_message import (
    MAX_HEAD_BYTES,
    RequestHead,
    ResponseHead,
    may_be_http,
    read_request_head,
    read_response_head,
)
from runctl.cli.proxy.targets import Targets
from runctl.cli.proxy.tunnel import Tunnel

HEAD_END = b"\r\n\r\n"
# A larger body is passed on while it arrives, and cannot be sent again.
MAX_KEPT_BYTES = 1024 * 1024
# A response of at most this size is passed on only once it is complete: servers write the head
# before the body, and a request cannot be repeated after a part of its answer was passed on.
MAX_HELD_BYTES = CHUNK_BYTES
# How long a request waits for a ready server.
WAIT_SECONDS = 300.0
# Servers close connections that are idle, some after two seconds. A request that is sent at that
# moment would be lost, so a connection is not used again after this time.
MAX_IDLE_SECONDS = 1.0
FIRST_DELAY, MAX_DELAY = 0.05, 1.0
NO_SERVER = b"no server of the service became ready in time"
NOT_REPEATED = (
    b"the server went away while it had this request, which runctl does not repeat, because it may "
    b"have changed something"
)


class BackendError(Exception):
    """The connection to the server ended before anything of its answer was passed on."""


@dataclass
class Backend:
    """A connection to a server."""

    tunnel: Tunnel
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used_at: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent on it."""
        is_fresh = time.monotonic() - self.used_at < MAX_IDLE_SECONDS
        return is_fresh and not self.reader.at_eof() and not self.writer.is_closing()

    def close(self) -> None:
        """Close the connection."""
        self.tunnel.connections -= 1
        self.writer.close()


class Relay:
    """Relays one connection of a client."""

    def __init__(
        self, targets: Targets, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._targets = targets
        self._reader = Source(reader)
        self._writer = writer
        self._backend: Backend | None = None

    async def run(self) -> None:
        """Relay until the client or its last response ends the connection."""
        try:
            while (head := await self._read_head()) is not None:
                # What has no end is left to the server, which refuses it in its own way.
                request = read_request_head(head) if head.endswith(HEAD_END) else None
                if request is None:
                    await self._relay_bytes(head)
                    return
                if not await self._exchange(head, request):
                    return
        except (PeerGone, ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self._drop_backend()
            self._writer.close()

    async def _read_head(self) -> bytes | None:
        """Return the next head, or the first bytes of what is not HTTP; None at the end."""
        start = await self._reader.read(CHUNK_BYTES)
        if not start:
            return None
        while HEAD_END not in start:
            if not may_be_http(start) or len(start) > MAX_HEAD_BYTES:
                return start
            more = await self._reader.read(CHUNK_BYTES)
            if not more:
                return start
            start += more
        head, _, rest = start.partition(HEAD_END)
        if rest:
            # What follows belongs to the body, or to the next request.
            self._reader.push_back(rest)
        return head + HEAD_END

    async def _exchange(self, head: bytes, request: RequestHead) -> bool:
        """Relay a request and its response; return whether another request may follow."""
        kept = await self._keep_body(request)
        is_whole = kept is not None
        deadline, delay = time.monotonic() + WAIT_SECONDS, FIRST_DELAY
        while True:
            backend = await self._connect(deadline)
            if backend is None:
                await self._refuse(b"503 Service Unavailable", NO_SERVER)
                return False
            try:
                return await self._send(backend, head + (kept or b""), request, is_whole=is_whole)
            except BackendError:
                self._targets.suspect(backend.tunnel)
                self._drop_backend()
                if not is_whole or not request.is_idempotent:
                    await self._refuse(b"502 Bad Gateway", NOT_REPEATED)
                    return False
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY)

    async def _keep_body(self, request: RequestHead) -> bytes | None:
        """Read a body that is small enough to be sent again; None if it is passed on instead."""
        body = request.body
        if body.is_chunked or body.length > MAX_KEPT_BYTES or request.expects_continue:
            return None
        return await self._reader.readexactly(body.length) if body.length else b""

    async def _connect(self, deadline: float) -> Backend | None:
        """Return a connection to a ready server; None after the deadline.

        That of the last request is used again, unless requests go elsewhere by now.
        """
        held = self._backend
        if held is not None:
            if held.is_usable and self._targets.is_current(held.tunnel):
                return held
            self._drop_backend()
        delay = FIRST_DELAY
        while (left := deadline - time.monotonic()) > 0:
            tunnel = self._targets.choose() or await self._targets.wait(left)
            if tunnel is None:
                return None
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", tunnel.port, limit=MAX_HEAD_BYTES
                )
            except OSError:
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_DELAY)
                continue
            tunnel.connections += 1
            self._backend = Backend(tunnel, reader, writer)
            return self._backend
        return None

    async def _send(
        self, backend: Backend, message: bytes, request: RequestHead, *, is_whole: bool
    ) -> bool:
        """Send a request and relay the response; BackendError if none is passed on."""
        try:
            backend.writer.write(message)
            await backend.writer.drain()
            if is_whole:
                return await self._relay_response(backend, request)
            passing = asyncio.create_task(copy_body(self._reader, backend.writer, request.body))
            try:
                may_follow = await self._relay_response(backend, request)
            finally:
                is_passed = await _finish(passing)
            return may_follow and is_passed
        except (ConnectionError, OSError) as exc:
            raise BackendError from exc

    async def _relay_response(self, backend: Backend, request: RequestHead) -> bool:
        while True:
            try:
                head = await backend.reader.readuntil(HEAD_END)
            except asyncio.IncompleteReadError as exc:
                if not exc.partial:
                    raise BackendError from exc
                self._writer.write(exc.partial)
                raise PeerGone from exc
            except asyncio.LimitOverrunError as exc:
                raise PeerGone from exc
            response = read_response_head(head, request)
            if response is not None and 0 < response.body.length <= MAX_HELD_BYTES:
                try:
                    body = await backend.reader.readexactly(response.body.length)
                except asyncio.IncompleteReadError as exc:
                    raise BackendError from exc
                await self._answer(head + body)
                return self._finish_response(backend, request, response)
            await self._answer(head)
            if response is None or response.switches:
                await self._pump_both(backend)
                return False
            if not response.is_interim:
                return await self._relay_body(backend, request, response)

    async def _relay_body(
        self, backend: Backend, request: RequestHead, response: ResponseHead
    ) -> bool:
        try:
            await copy_body(backend.reader, self._writer, response.body)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            raise PeerGone from exc
        return self._finish_response(backend, request, response)

    def _finish_response(
        self, backend: Backend, request: RequestHead, response: ResponseHead
    ) -> bool:
        """Note that a response has ended; return whether another request may follow."""
        backend.used_at = time.monotonic()
        if not response.keeps_alive:
            self._drop_backend()
        return response.keeps_alive and request.keeps_alive

    async def _answer(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError as exc:
            raise PeerGone from exc

    async def _relay_bytes(self, start: bytes) -> None:
        """Relay a connection that is not HTTP/1, to one server until its end."""
        backend = await self._connect(time.monotonic() + WAIT_SECONDS)
        if backend is not None:
            backend.writer.write(start)
            await self._pump_both(backend)

    async def _pump_both(self, backend: Backend) -> None:
        await asyncio.gather(pump(self._reader, backend.writer), pump(backend.reader, self._writer))

    async def _refuse(self, status: bytes, text: bytes) -> None:
        length = str(len(text) + 1).encode()
        await self._answer(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: " + length + b"\r\n\r\n" + text + b"\n"
        )

    def _drop_backend(self) -> None:
        if self._backend is not None:
            backend, self._backend = self._backend, None
            backend.close()


async def _finish(task: asyncio.Task[None]) -> bool:
    """End the copy of a request's body; return whether all of it was copied.

    A server may answer without reading all of it.
    """
    if not task.done():
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
        return True
    return False
