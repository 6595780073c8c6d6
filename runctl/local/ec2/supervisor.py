"""The supervisor of an instance, its first process, as the host sees it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import runctl
from runctl.local.core.instance import Instance

PACKAGE_ROOT = Path(runctl.__file__).parents[1]
_GUEST = (
    f"import sys; sys.path.insert(0, {str(PACKAGE_ROOT)!r}); "
    "from runctl.local.guest.init import main; main()"
)


class Supervisor:
    """Starts an instance's first process, sends it commands and reads its events.

    `ended` is set once the instance is to be switched off, even if it has no process yet. All
    methods are called in the thread of the instances.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: dict[str, asyncio.Future[int]] = {}
        self._timed_out: set[str] = set()

    @property
    def has_started(self) -> bool:
        """Whether the process was started."""
        return self._process is not None

    async def start(
        self,
        instance: Instance,
        python: str,
        settings: dict[str, Any],
        *,
        program: str = "",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Start the process, which inherits some descriptors, and send it its settings.

        `program` is a file of Python to run instead of `runctl.local.guest.init`.
        """
        start = [program] if program else ["-c", _GUEST]
        with (instance.root / "var/log/supervisor.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(python, "-I", "-S", *start, instance.instance_id),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=descriptors,
                env={},
                cwd=instance.root,
            )
        instance.supervisor_pid = self._process.pid
        self._send(**settings)

    async def run(
        self,
        argv: list[str],
        *,
        output: Path,
        errors: Path | None = None,
        timeout_seconds: float | None = None,
    ) -> int | None:
        """Run a program; None means that its time or the instance ended."""
        job = secrets.token_hex(8)
        future = asyncio.get_running_loop().create_future()
        self._jobs[job] = future
        self._send(
            do="run",
            job=job,
            argv=argv,
            output=str(output),
            errors=str(errors) if errors else None,
            timeout_seconds=timeout_seconds,
        )
        try:
            status: int = await future
        except asyncio.CancelledError:
            return None
        return None if job in self._timed_out else status

    async def listen(self, on_shutdown: Callable[[], None]) -> None:
        """Read events until the process ends; `on_shutdown`: the instance shuts itself down."""
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("the supervisor has not been started")
        async for line in process.stdout:
            event = json.loads(line)
            job = event.get("job", "")
            if event["event"] == "ended" and job in self._jobs:
                self._jobs.pop(job).set_result(event["status"])
            elif event["event"] == "timed_out":
                self._timed_out.add(job)
            elif event["event"] == "shutdown":
                on_shutdown()
        for future in self._jobs.values():
            future.cancel()
        await process.wait()

    def power_off(self, grace_seconds: float) -> None:
        """End every process of the instance, those that run after the grace by force."""
        self.ended.set()
        if self._process:
            self._send(do="power_off", grace_seconds=grace_seconds)

    def _send(self, **command: Any) -> None:
        if self._process and self._process.stdin and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
