"""A tunnel to a port of an instance: a session of SSM, and the plugin that carries it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from runctl.model.errors import RequestError, RunctlError, TransientError

if TYPE_CHECKING:
    from runctl.aws.sessions import PortSessions

PLUGIN = "session-manager-plugin"
MISSING = (
    f"{PLUGIN} is missing, which carries the connections; install it, and open a new terminal if "
    "it was installed just now: "
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/"
    "session-manager-working-with-install-plugin.html"
)
# From the version after this one, the plugin reads the response from a variable, which unlike an
# argument only its user can see.
LAST_WITHOUT_VARIABLE = (1, 2, 497, 0)
VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
# Its last words before it accepts connections. With agents that carry one connection at a time it
# prints nothing after them.
OPENED = re.compile(rb"Port \d+ opened for sessionId ")
OPEN_SECONDS = 30.0
END_SECONDS = 3.0
VERSION_SECONDS = 60.0
# Windows has no interrupt for a process without a console: there the plugin is terminated.
_INTERRUPT = signal.SIGTERM if sys.platform == "win32" else signal.SIGINT
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Plugin:
    """The program that carries sessions; `reads_variable`: a variable may hold the response."""

    words: tuple[str, ...]
    reads_variable: bool = True
    profile: str = ""


def find_plugin(*, is_local: bool, profile: str = "") -> Plugin:
    """Return the plugin of this machine, or that of the local cloud; RequestError without one."""
    if is_local:
        return Plugin((sys.executable, "-m", "runctl.local.session_plugin"))
    path = shutil.which(PLUGIN)
    if path is None:
        raise RequestError(MISSING)
    try:
        asked = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise RequestError(f"{path} does not run: {exc}; install it again") from exc
    numbers = asked.stdout.strip().split(".")
    is_known = asked.returncode == 0 and all(number.isdigit() for number in numbers)
    version = tuple(int(number) for number in numbers) if is_known else ()
    return Plugin((path,), reads_variable=version > LAST_WITHOUT_VARIABLE, profile=profile)


class Tunnel:
    """An open tunnel: connections to `port` of this machine reach the instance.

    `connections` is their number. A tunnel is suspect from when a request got no answer through it
    until another one does: the plugin accepts connections although the server may be gone.
    """

    def __init__(
        self, sessions: PortSessions, plugin: Plugin, *, instance_id: str, remote_port: int
    ) -> None:
        self._sessions = sessions
        self._plugin = plugin
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._session_id = ""
        self.instance_id = instance_id
        self.remote_port = remote_port
        self.port = 0
        self.connections = 0
        self.is_suspect = False

    @property
    def is_open(self) -> bool:
        """Whether its plugin runs."""
        return self._process is not None and self._process.returncode is None

    async def open(self) -> None:
        """Start the session and the plugin; TransientError if that may succeed later."""
        self.port = _free_port()
        session = await asyncio.to_thread(
            self._sessions.start,
            self.instance_id,
            port=self.remote_port,
            local_port=self.port,
        )
        self._session_id = session.session_id
        environment, response = dict(os.environ), session.response
        if self._plugin.reads_variable:
            environment[VARIABLE] = session.response
            response = VARIABLE
        words: Sequence[str] = (
            *self._plugin.words,
            *session.plugin_arguments(response, profile=self._plugin.profile),
        )
        self._process = await asyncio.create_subprocess_exec(
            *words,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Ctrl-C in the terminal is for runctl, which ends the plugin.
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(self._await_start(self._process), OPEN_SECONDS)
        except (TimeoutError, asyncio.TimeoutError) as exc:
            await self.close()
            raise TransientError(f"{PLUGIN} did not open a port in {OPEN_SECONDS:.0f} s") from exc

    async def _await_start(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        printed: list[str] = []
        async for line in process.stdout:
            printed.append(line.decode(errors="replace").strip())
            if OPENED.search(line):
                # It goes on printing; a full pipe would stop it.
                self._reading = asyncio.create_task(_drain(process.stdout))
                return
        await process.wait()
        words = "; ".join(filter(None, printed[-3:])) or f"exit code {process.returncode}"
        raise TransientError(f"{PLUGIN} ended: {words}")

    async def answers(self) -> bool:
        """Whether the server sends anything in answer to a request."""
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return bool(await asyncio.wait_for(reader.read(1), ANSWER_SECONDS))
        except (OSError, TimeoutError, asyncio.TimeoutError):
            return False
        finally:
            if writer is not None:
                writer.close()

    async def close(self) -> None:
        """End the plugin and the session."""
        if self._reading is not None:
            self._reading.cancel()
        process = self._process
        if process is not None:
            await _end(process)
        if self._session_id:
            session_id, self._session_id = self._session_id, ""
            with contextlib.suppress(RunctlError):
                await asyncio.to_thread(self._sessions.end, session_id)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Interrupt the plugin, which handles that: SIGTERM would leave its socket file behind.

    It ignores an interrupt, as runctl does, if a shell has started them in the background.
    """
    for ask in (partial(process.send_signal, _INTERRUPT), process.terminate, process.kill):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            ask()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), END_SECONDS)


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(4096):
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
