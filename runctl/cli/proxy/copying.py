"""Copying between connections: bodies of HTTP messages to their end, and plain bytes."""

from __future__ import annotations

import asyncio
import contextlib

from runctl.cli.proxy.http_message import Body

CHUNK_BYTES = 64 * 1024


class PeerGone(Exception):  # noqa: N818 - an end, not an error
    """A connection ended within a message, so that both ends of the relay have to be closed."""


class Source:
    """A reader to which bytes that were read too early can be given back."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._first = b""

    def push_back(self, data: bytes) -> None:
        """Make `data` the next bytes to be read."""
        self._first = data + self._first

    async def read(self, most: int) -> bytes:
        """Return the next bytes, none at the end."""
        if self._first:
            taken, self._first = self._first[:most], self._first[most:]
            return taken
        return await self._reader.read(most)

    async def readexactly(self, length: int) -> bytes:
        """Return this many bytes; IncompleteReadError if there are fewer."""
        taken, self._first = self._first[:length], self._first[length:]
        if len(taken) == length:
            return taken
        return taken + await self._reader.readexactly(length - len(taken))

    async def readuntil(self, separator: bytes) -> bytes:
        """Return the bytes up to and with a separator; IncompleteReadError if there is none."""
        while separator not in self._first:
            more = await self._reader.read(CHUNK_BYTES)
            if not more:
                raise asyncio.IncompleteReadError(self._first, None)
            self._first += more
        head, _, self._first = self._first.partition(separator)
        return head + separator


async def copy_body(
    reader: asyncio.StreamReader | Source, writer: asyncio.StreamWriter, body: Body
) -> None:
    """Copy a body to its end; IncompleteReadError or PeerGone if it is cut off."""
    if body.is_chunked:
        await _copy_chunks(reader, writer)
    elif body.lasts:
        await pump(reader, writer, ends=False)
    else:
        await _copy_bytes(reader, writer, body.length)


async def pump(
    reader: asyncio.StreamReader | Source, writer: asyncio.StreamWriter, *, ends: bool = True
) -> None:
    """Copy bytes until there are no more."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    if ends:
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


async def _copy_bytes(
    reader: asyncio.StreamReader | Source, writer: asyncio.StreamWriter, length: int
) -> None:
    while length:
        data = await reader.read(min(length, CHUNK_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        writer.write(data)
        await writer.drain()


async def _copy_chunks(reader: asyncio.StreamReader | Source, writer: asyncio.StreamWriter) -> None:
    """Copy chunks up to the last one and its trailers."""
    size = None
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.partition(b";")[0].strip(), 16)
        except ValueError as exc:
            raise PeerGone from exc
        writer.write(line)
        if size:
            await _copy_bytes(reader, writer, size + 2)
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
    await writer.drain()
