"""The metadata service at the address that it has on EC2, before the one of the local cloud.

That one answers below a secret path only, since every user of the system can reach its port. Inside
a machine everybody may reach it, as on EC2, apart from those whom the fence keeps out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

ADDRESS = ("169.254.169.254", 80)


class MetadataRelay:
    """Forwards requests to the metadata service of an instance, at a URL with a path."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._port, self._path = parts.port, parts.path.rstrip("/").encode()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accept connections of a socket that listens in the machine's network."""
        self._server = await asyncio.start_server(self._accept, sock=listener)

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._forward(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
            answering = asyncio.ensure_future(_pump(answers, writer))
            try:
                while await self._pass_request(reader, requests):
                    pass
                await answering
            finally:
                answering.cancel()
                requests.close()
        writer.close()

    async def _pass_request(
        self, reader: asyncio.StreamReader, requests: asyncio.StreamWriter
    ) -> bool:
        method, _, rest = (await reader.readline()).partition(b" ")
        if not rest:
            with contextlib.suppress(OSError):
                requests.write_eof()
            return False
        requests.write(method + b" " + self._path + rest)
        length = 0
        while (line := await reader.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            requests.write(line)
        requests.write(line)
        requests.write(await reader.readexactly(length))
        await requests.drain()
        return True


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()
