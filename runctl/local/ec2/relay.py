"""A relay: it forwards connections from an instance's own loopback to a port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from runctl.local.core.peers import Address

_CHUNK_BYTES = 256 * 1024


class Relay:
    """Forwards connections to a port of this machine's loopback, all in one event loop."""

    def __init__(
        self, port: int, *, admits: Callable[[Address, Address], bool] = lambda *_: True
    ) -> None:
        """Forward to `port` whatever `admits` says yes to, given a connection's client and server.

        It is called in a thread of its own.
        """
        self._port, self._admits = port, admits
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accept connections of a socket that listens, in whichever network namespace."""
        self._server = await asyncio.start_server(self._accept, sock=listener)

    def hold(self) -> None:
        """Forward nothing from now on: neither bytes nor the ends of connections."""
        self._is_open.clear()

    def go_on(self) -> None:
        """Forward what has come meanwhile, and everything after it."""
        self._is_open.set()

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._connections.add(task)
        try:
            # A cancelled connection is closed, too.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = (writer.get_extra_info(name) for name in ("peername", "sockname"))
        if not await asyncio.to_thread(self._admits, *ends):
            return
        await self._is_open.wait()
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            directions = {
                asyncio.ensure_future(self.send_requests(reader, requests)),
                asyncio.ensure_future(self._pump(answers, writer)),
            }
            try:
                await asyncio.gather(*directions)
            finally:
                for direction in directions:
                    direction.cancel()
        finally:
            requests.close()

    async def send_requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward what a client sends, as it is."""
        await self._pump(source, sink)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK_BYTES):
            await self._is_open.wait()
            sink.write(data)
            await sink.drain()
        await self._is_open.wait()
        sink.write_eof()
