"""The process that runs a trainer in a container.

The engine's init would end with the program, and the kernel would kill all other processes of the
container at that moment, even in the middle of a save. So the init is stopped while the program
runs. The program then remains as a zombie, whose exact exit code the kernel shows, and what it
left runs on until it has finished or is killed, as on the host.
"""

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.runtime.container_family import ContainerFamily, Started
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.lead_process import LeadEnd, Printed
from runctl.agent.runtime.ports import Contract
from runctl.beneath.kernel_calls import open_process
from runctl.model.errors import RequestError

START_SECONDS = 120.0
START_POLL = 0.005
END_SECONDS = 10.0
EXIT_POLL_MS = 1000
# The init collects zombies in the blink of an eye, in which an exit of the program ends the
# container: rarely, since each of them takes one of the processes that a container may have.
MAX_ZOMBIES = 1000
COLLECTING = 0.01
REAP_EVERY = 60.0
ENGINE_LOST = "the Docker engine ended while the trainer was running"
KILLED_FROM_OUTSIDE = "the container was killed from outside"

logger = logging.getLogger(__name__)


class ContainerProcess:
    """The program of a container, which was created before, and everything in the container."""

    def __init__(
        self, engine: Engine, container: str, contract: Contract, *, on_exit: Callable[[], None]
    ) -> None:
        """Start the container. Raises RequestError if the engine cannot start it."""
        self._engine = engine
        self._container = container
        self._problem = ""
        self._is_killed = False
        self._reaped_at = time.monotonic()
        self.family = ContainerFamily(container)
        self.printed = Printed(contract)
        self.end = LeadEnd(contract.command, on_exit=on_exit)
        with contract.output.open("ab") as out, contract.errors.open("ab") as err:
            self._client = subprocess.Popen(
                ["docker", "start", "--attach", container],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=engine.environment(),
                start_new_session=True,
            )
        self._started = self._await_start()
        self._waiting = threading.Thread(target=self._wait, name="trainer", daemon=True)
        self._waiting.start()

    @property
    def pid(self) -> int:
        """The program that the container's init has started, or the client if that has ended."""
        return self._client.pid if self._started is None else self._started.lead

    def watched(self) -> set[int]:
        """Return the processes that a SIGTERM from outside would be meant for."""
        first = set() if self._started is None else {self._started.init}
        return {self.pid, *self.family.pids()} | first

    def is_below(self, group: str) -> bool:
        """Whether the container is in a control group below `group`; also true after its end."""
        with contextlib.suppress(OSError):
            groups = Path(f"/proc/{self.pid}/cgroup").read_text()
            return self._started is None or f"/{group}/" in groups
        return True

    def reap(self) -> None:
        """Let the init collect the orphans that have ended, once there are many."""
        started, now = self._started, time.monotonic()
        if started is None or self.end.code is not None or now - self._reaped_at < REAP_EVERY:
            return
        self._reaped_at = now
        if self.family.zombies(started.init) > MAX_ZOMBIES:
            _kill(started.init, signal.SIGCONT)
            time.sleep(COLLECTING)
            _kill(started.init, signal.SIGSTOP)

    def kill_family(self, folder: Path) -> processes.KilledTree:
        """SIGKILL all that is left of it; return what that was and what it wrote in `folder`."""
        self._is_killed = True
        killed = processes.end_all(self.family.pids, folder=folder)
        self._waiting.join(END_SECONDS)
        if self._started is not None:
            # It ends now, and with it the container: then all output has been written.
            _kill(self._started.init, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._client.wait(END_SECONDS)
        return killed

    def problem(self) -> str:
        """Describe who ended the container if that was neither the program nor the agent."""
        return self._problem

    def _await_start(self) -> Started | None:
        """Wait for the program to start, and stop the init; None if it has ended already."""
        until = time.monotonic() + START_SECONDS
        while self._client.poll() is None and time.monotonic() < until:
            if started := self.family.started():
                _kill(started.init, signal.SIGSTOP)
                return started
            time.sleep(START_POLL)
        if self._client.poll() is None:
            self._client.kill()
            raise EngineError("start", f"no container within {START_SECONDS:.0f} s")
        state = self._state()
        if state.get("Status") == "exited":
            return None
        problem = state.get("Error") or self.printed.last_words()
        raise RequestError(f"the container cannot be started: {problem}")

    def _wait(self) -> None:
        try:
            if self._started is None:
                code = int(str(self._state().get("ExitCode", 1)))
            else:
                code = self._await_exit(self._started)
        except Exception as exc:  # whatever it is, the session must not wait for ever
            logger.exception("the end of the container cannot be seen")
            code, self._problem = -signal.SIGKILL, f"{ENGINE_LOST}: {exc}"
        self.end.note_exit(code)

    def _await_exit(self, started: Started) -> int:
        """Wait for the program's end and return its exit code."""
        with contextlib.ExitStack() as stack:
            poll = select.poll()
            for pid in (started.lead, self._client.pid):
                with contextlib.suppress(ProcessLookupError):
                    descriptor = open_process(pid)
                    stack.callback(os.close, descriptor)
                    poll.register(descriptor, select.POLLIN)
            while processes.is_alive(started.lead) and not poll.poll(EXIT_POLL_MS):
                continue
        if processes.is_alive(started.lead) and not self._is_killed:
            # Only the client has ended: nobody reads any more what the program prints.
            logger.warning("the engine is lost: ending the processes of the container")
            self._problem = ENGINE_LOST
            self._is_killed = True
            processes.end_all(self.family.pids)
        code = processes.exit_code_of_zombie(started.lead)
        has_init = processes.is_alive(started.init) and not processes.is_exiting(started.init)
        if (code is None or not has_init) and not self._is_killed:
            self._problem = self._explain()
        return -signal.SIGKILL if code is None else code

    def _explain(self) -> str:
        """Return what ended a program that the kernel has killed together with its container."""
        try:
            self._state()
        except EngineError as exc:
            logger.warning("%s", exc)
            return ENGINE_LOST
        return KILLED_FROM_OUTSIDE

    def _state(self) -> dict[str, object]:
        found = self._engine.inspect("container", self._container) or {}
        return dict(found.get("State", {}))


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
