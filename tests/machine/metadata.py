"""The metadata service at the address that it has on EC2, before the one of the local cloud.

That one answers below a secret path only, since every user of the system can reach its port. Inside
a machine everybody may reach it, as on EC2, apart from those whom the fence keeps out.
"""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from runctl.local.ec2.relay import Relay

ADDRESS = ("169.254.169.254", 80)


class MetadataRelay(Relay):
    """Forwards requests to the metadata service of an instance, at a URL with a path."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        super().__init__(parts.port or 0)
        self._path = parts.path.rstrip("/").encode()

    async def send_requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward the requests of a client, with the path before theirs."""
        with contextlib.suppress(asyncio.IncompleteReadError, ValueError):
            while await self._pass_request(source, sink):
                pass
        sink.write_eof()

    async def _pass_request(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> bool:
        """Forward one request; return whether there was one."""
        method, _, rest = (await source.readline()).partition(b" ")
        if not rest:
            return False
        sink.write(method + b" " + self._path + rest)
        length = 0
        while (line := await source.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            sink.write(line)
        sink.write(line)
        sink.write(await source.readexactly(length))
        await sink.drain()
        return True
