"""The server of the local proxy."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from runctl.cli.proxy.server import serve


class NoServerYet:
    """The targets of a service whose server is not ready yet."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def choose(self) -> None:
        return None

    async def wait(self, seconds: float) -> None:
        self.asked.set()
        await asyncio.sleep(seconds)

    async def follow(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_the_proxy_ends_silently_while_requests_wait_for_a_server():
    problems: list[dict[str, Any]] = []

    async def scenario() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, found: problems.append(found))
        targets, port, listening = NoServerYet(), free_port(), asyncio.Event()
        proxy = asyncio.create_task(serve(lambda: targets, port=port, on_listening=listening.set))
        await listening.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await targets.asked.wait()
        proxy.cancel()
        await asyncio.wait([proxy])
        answer = await reader.read()
        writer.close()
        return answer

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == b""
    assert problems == []


class DeafTargets(NoServerYet):
    """Targets that go on after one cancellation, as asyncio.wait_for lets them at times."""

    def __init__(self) -> None:
        super().__init__()
        self.following = asyncio.Event()
        self.cancellations = 0

    async def follow(self) -> None:
        self.following.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                if self.cancellations == 2:
                    raise


def test_the_proxy_ends_although_a_cancellation_is_forgotten():
    async def scenario() -> bool:
        targets: Any = DeafTargets()
        proxy = asyncio.create_task(
            serve(lambda: targets, port=free_port(), on_listening=lambda: None)
        )
        await targets.following.wait()
        proxy.cancel()
        ended, _ = await asyncio.wait([proxy], timeout=10)
        return proxy in ended and proxy.cancelled()

    assert asyncio.run(scenario())
