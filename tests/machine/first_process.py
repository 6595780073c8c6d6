"""The first process of an instance that is a real machine; for others, `runctl.local.guest.init`.

The local cloud starts it if the knob `first_process` names this file. It reads the same commands on
standard input, and reports the same events. In the knob `environment`, `RUNCTL_MACHINE_MEMORY` is
how many bytes of memory the machine gets, and `RUNCTL_MACHINE_LAYOUT` a shell script that root runs
in it when it has booted, before its user data.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Instances start without the paths of a virtual environment.
sys.path.insert(0, str(Path(__file__).parents[2]))

from runctl.local.guest import namespaces
from runctl.local.guest.processes import read_description
from tests.machine import control_groups, entering
from tests.machine.booting import Machine

# What describes an instance that is only a process; a machine has the real paths and addresses.
_OF_PROCESSES = {
    "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "DOCKER_HOST", "HOME", "LANG",
    "PATH", "RUNCTL_FREE_PORTS", "RUNCTL_MACHINE_LAYOUT", "RUNCTL_MACHINE_MEMORY", "RUNCTL_ROOT",
    "RUNCTL_STATE_DIR", "TMPDIR",
}  # fmt: skip


class Supervisor:
    """Boots the machine, obeys the local cloud, and reports what happens."""

    def __init__(self, description: dict[str, Any]) -> None:
        environment: dict[str, str] = description["env"]
        self._root = Path(description["root"])
        self._machine = Machine(
            self._root.name,
            self._root.with_name(f"{self._root.name}.machine"),
            endpoint_port=urlsplit(environment["AWS_ENDPOINT_URL"]).port or 0,
            metadata_url=environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"],
            shared=[self._root],
            memory_bytes=int(environment.get("RUNCTL_MACHINE_MEMORY", "0")),
            network=description["network"],
        )
        self._environment = {
            name: value for name, value in environment.items() if name not in _OF_PROCESSES
        }
        self._layout = environment.get("RUNCTL_MACHINE_LAYOUT", "")
        self._is_booted = asyncio.Event()
        self._is_ordered_off = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run the machine until it is off."""
        await asyncio.to_thread(control_groups.remove_abandoned)
        self._machine.mount()
        self._start(self._obey())
        await self._boot()
        while await self._machine.wants_reboot() and not self._is_ordered_off:
            await self._boot()
        if not self._is_ordered_off:
            _report(event="shutdown")
        await self._machine.close()
        os._exit(0)  # the event loop would first wait for programs that nobody waits for

    async def _boot(self) -> None:
        self._is_booted.clear()
        await self._machine.boot()
        if argv := self._machine.inside("sh", "-ec", self._layout):
            await (await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL)).wait()
        self._is_booted.set()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
        )
        async for line in reader:
            command = json.loads(line)
            if command["do"] == "run":
                self._start(self._run_job(command))
            elif command["do"] == "power_off":
                self._start(self._power_off(command["grace_seconds"]))
        await self._power_off(0)

    async def _run_job(self, command: dict[str, Any]) -> None:
        """Run a program in a unit, as cloud-init and the SSM agent do."""
        seconds = command.get("timeout_seconds")
        await self._is_booted.wait()
        argv = self._machine.inside(
            *entering.unit(command["argv"], seconds=seconds, environment=self._environment)
        )
        begun = time.monotonic()
        with (
            Path(command["output"]).open("ab") as output,
            Path(command["errors"] or command["output"]).open("ab") as errors,
        ):
            client = await asyncio.create_subprocess_exec(
                *(argv or ["false"]), stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
        status = await _wait(client)
        if seconds and time.monotonic() - begun >= seconds:
            _report(event="timed_out", job=command["job"])
        _report(event="ended", job=command["job"], status=status)

    async def _power_off(self, grace_seconds: float) -> None:
        self._is_ordered_off = True
        await self._machine.power_off(grace_seconds)


async def _wait(client: asyncio.subprocess.Process) -> int:
    """Wait for nsenter, which stops itself when a shutdown stops what it has started."""
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(asyncio.shield(client.wait()), 1)
        with contextlib.suppress(ProcessLookupError):
            client.send_signal(signal.SIGCONT)


def _report(**event: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Run an instance: the first line of standard input describes it."""
    description = read_description()
    if description is None:
        return
    # Empty at the start; the programs of the system are needed.
    os.environ.update(entering.ENVIRONMENT)
    os.umask(0o022)
    namespaces.enter()
    asyncio.run(Supervisor(description).run())


if __name__ == "__main__":
    main()
