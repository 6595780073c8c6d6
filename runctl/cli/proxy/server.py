"""The server of the local proxy: it accepts connections and relays each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

from runctl.cli.proxy.relay import Relay
from runctl.cli.proxy.targets import Targets
from runctl.model.errors import RequestError

BACKLOG = 1024
AGAIN_SECONDS = 0.5


async def serve(
    make_targets: Callable[[], Targets], *, port: int, on_listening: Callable[[], None]
) -> None:
    """Accept connections on a port of this machine until all runs have ended.

    Raises RunOver then, and RequestError if the port is in use.
    """
    targets = make_targets()
    relays: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        task.add_done_callback(relays.discard)
        # asyncio of Python 3.11 reports each cancelled task of a connection with a traceback.
        with contextlib.suppress(asyncio.CancelledError):
            await Relay(targets, reader, writer).run()

    try:
        server = await asyncio.start_server(accept, "127.0.0.1", port, backlog=BACKLOG)
    except OSError as exc:
        raise _unusable(port, exc) from exc
    following = asyncio.create_task(targets.follow())
    with _ending_on_sigterm():
        try:
            async with server:
                on_listening()
                await asyncio.wait({following})
            await following
        finally:
            await _end({following, *relays})
            await targets.close()


def check_port(port: int) -> None:
    """Raise RequestError if this machine cannot listen on a port, with the reason."""
    with socket.socket() as probe:
        # Connections of an earlier proxy that are not forgotten yet do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError as exc:
            raise _unusable(port, exc) from exc


def _unusable(port: int, problem: OSError) -> RequestError:
    # asyncio puts an explanation around the words of the system.
    words = os.strerror(problem.errno) if problem.errno else str(problem)
    return RequestError(
        f"--local-port: port {port} of this machine cannot be used: {words}; choose another one"
    )


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: asyncio.wait_for of Python 3.11 forgets a cancellation that arrives together
    with what it waits for.
    """
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=AGAIN_SECONDS)


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """End as after Ctrl-C, so that tunnels are closed."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
