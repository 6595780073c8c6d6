"""The relay between a client and servers that come and go, with real connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runctl.cli.proxy import relay as relay_module
from runctl.cli.proxy.relay import Relay


class Server:
    """A server on a port of its own; `behave` handles each connection."""

    def __init__(self, behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable]):
        self.behave = behave
        self.requests: list[bytes] = []
        self.port = 0
        self.connections = 0

    async def start(self) -> Server:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _handle(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.behave(self, reader, writer)
        writer.close()

    def close(self) -> None:
        self._server.close()


class Targets:
    """The servers that are ready: the last one that was added."""

    def __init__(self, *servers: Server) -> None:
        self.ready = list(servers)
        self.suspected: list[Server] = []

    def choose(self) -> Server | None:
        return self.ready[-1] if self.ready else None

    def is_current(self, server: Server) -> bool:
        return server is self.choose()

    def suspect(self, server: Server) -> None:
        self.suspected.append(server)

    async def wait(self, seconds: float) -> Server | None:
        for _ in range(int(seconds * 100)):
            if self.ready:
                break
            await asyncio.sleep(0.01)
        return self.choose()


async def read_request(server, reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ),
        0,
    )
    body = await reader.readexactly(length) if length else b""
    server.requests.append(head.split(b" HTTP")[0] + (b" " + body if body else b""))
    return head


def answer(text: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def answering(text: str):
    async def behave(server, reader, writer):
        while True:
            await read_request(server, reader)
            writer.write(answer(text))
            await writer.drain()

    return behave


async def closes_at_once(server, reader, writer):
    """Read a request and close the connection, as a server that is killed."""
    await read_request(server, reader)


async def closes_within_its_answer(server, reader, writer):
    """Close the connection within a short body, whose head servers send before it."""
    await read_request(server, reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


KILLED = pytest.mark.parametrize("behave", [closes_at_once, closes_within_its_answer])


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def ask(self, text: bytes) -> bytes:
        self.writer.write(text)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return head.split(b"\r\n")[0] + b" " + await self.reader.readexactly(length)


def run(targets: Targets, scenario: Callable[[Client], Awaitable[Any]], *servers: Server) -> Any:
    async def main():
        for server in servers:
            await server.start()

        relays = []

        async def accept(reader, writer):
            relays.append(asyncio.current_task())
            await Relay(targets, reader, writer).run()

        proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        try:
            return await asyncio.wait_for(scenario(client), 60)
        finally:
            client.writer.close()
            proxy.close()
            for server in servers:
                server.close()
            await asyncio.wait(relays)
            await asyncio.sleep(0.05)  # in which closed connections are released

    return asyncio.run(main())


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def test_a_kept_connection_moves_to_the_next_server_between_requests():
    old, new = Server(answering("old")), Server(answering("new"))
    targets = Targets(old)

    async def scenario(client):
        assert await client.ask(POST) == b"HTTP/1.1 200 OK old"
        targets.ready.append(new)
        old.close()
        return [await client.ask(POST), await client.ask(GET)]

    assert run(targets, scenario, old, new) == [b"HTTP/1.1 200 OK new"] * 2
    assert old.requests == [b"POST /a body"]
    assert new.requests == [b"POST /a body", b"GET /a"]


def test_a_request_waits_until_a_server_is_ready():
    server = Server(answering("late"))
    targets = Targets()

    async def scenario(client):
        asked = asyncio.create_task(client.ask(POST))
        await asyncio.sleep(0.1)
        assert not asked.done()
        targets.ready.append(server)
        return await asked

    assert run(targets, scenario, server) == b"HTTP/1.1 200 OK late"


@KILLED
def test_a_get_whose_server_is_killed_is_sent_to_the_next_one(behave):
    dead, alive = Server(behave), Server(answering("alive"))
    targets = Targets(dead)

    async def scenario(client):
        asked = asyncio.create_task(client.ask(GET))
        while not targets.suspected:
            await asyncio.sleep(0.01)
        targets.ready.append(alive)
        return await asked

    assert run(targets, scenario, dead, alive) == b"HTTP/1.1 200 OK alive"
    assert targets.suspected[0] is dead


@KILLED
def test_a_post_whose_server_is_killed_is_answered_and_not_repeated(behave):
    dead, alive = Server(behave), Server(answering("alive"))

    async def scenario(client):
        return await client.ask(POST)

    answered = run(Targets(alive, dead), scenario, dead, alive)
    assert answered.startswith(b"HTTP/1.1 502 Bad Gateway the server went away")
    assert alive.requests == []


def test_without_a_server_a_request_is_answered_in_the_end(monkeypatch):
    monkeypatch.setattr(relay_module, "WAIT_SECONDS", 0.2)

    async def scenario(client):
        return await client.ask(GET)

    assert run(Targets(), scenario).startswith(b"HTTP/1.1 503 Service Unavailable")


def test_a_response_in_chunks_arrives_as_it_is_sent_and_the_connection_stays():
    async def behave(server, reader, writer):
        while True:
            await read_request(server, reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"3\r\none\r\n", b"3;x=y\r\ntwo\r\n"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            writer.write(b"0\r\nTrailer: z\r\n\r\n")

    server = Server(behave)

    async def scenario(client):
        found = []
        for _ in range(2):
            client.writer.write(GET)
            await client.reader.readuntil(b"\r\n\r\n")
            found.append(await client.reader.readuntil(b"Trailer: z\r\n\r\n"))
        return found

    assert (
        run(Targets(server), scenario, server)
        == [b"3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nTrailer: z\r\n\r\n"] * 2
    )


def test_a_large_request_body_is_passed_on_while_it_arrives():
    size = 3 * 1024 * 1024
    seen = asyncio.Queue()

    async def behave(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1000)
        seen.put_nowait("began")
        await reader.readexactly(size - 1000)
        writer.write(answer("all"))

    server = Server(behave)

    async def scenario(client):
        client.writer.write(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        client.writer.write(b"x" * 2000)
        assert await seen.get() == "began"
        return await client.ask(b"x" * (size - 2000))

    assert run(Targets(server), scenario, server) == b"HTTP/1.1 200 OK all"


def test_a_client_that_expects_it_is_asked_to_continue():
    async def behave(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(answer("went on"))

    server = Server(behave)

    async def scenario(client):
        client.writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return await client.ask(b"body")

    assert run(Targets(server), scenario, server) == b"HTTP/1.1 200 OK went on"


@pytest.mark.parametrize(
    ("hello", "is_switched"),
    [
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", True),
        (b"\x16\x03\x01 not http", False),
    ],
)
def test_other_protocols_are_relayed_byte_by_byte(hello, is_switched):
    async def behave(server, reader, writer):
        assert await reader.readexactly(len(hello)) == hello
        if is_switched:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        writer.write(b"welcome")
        while data := await reader.read(100):
            writer.write(data.upper())

    server = Server(behave)

    async def scenario(client):
        client.writer.write(hello)
        if is_switched:
            await client.reader.readuntil(b"\r\n\r\n")
        assert await client.reader.readexactly(7) == b"welcome"
        client.writer.write(b"ping")
        return await client.reader.readexactly(4)

    assert run(Targets(server), scenario, server) == b"PING"


def test_requests_that_are_sent_together_are_answered_in_order():
    server = Server(answering("ok"))

    async def scenario(client):
        client.writer.write(GET + POST + GET)
        return [await client.ask(b"") for _ in range(3)]

    assert run(Targets(server), scenario, server) == [b"HTTP/1.1 200 OK ok"] * 3
    assert server.requests == [b"GET /a", b"POST /a body", b"GET /a"]


def test_a_long_response_that_is_cut_off_ends_the_clients_connection():
    async def behave(server, reader, writer):
        await read_request(server, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")

    server = Server(behave)

    async def scenario(client):
        client.writer.write(GET)
        return await client.reader.read()

    assert run(Targets(server), scenario, server).endswith(b"\r\n\r\nhalf")


def test_a_head_without_an_end_is_not_kept_in_memory_for_ever():
    server = Server(answering("ok"))
    received = []

    async def behave(server, reader, writer):
        while data := await reader.read(65536):
            received.append(len(data))

    server.behave = behave

    async def scenario(client):
        client.writer.write(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
        await client.writer.drain()
        client.writer.write_eof()
        await client.reader.read()

    run(Targets(server), scenario, server)
    assert sum(received) == 16 + 6 * 100_000
