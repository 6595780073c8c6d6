"""A parent process per running service, which holds its processes together like a cgroup."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from runctl.local.guest.processes import (
    adopt_orphans,
    descendants,
    die_with_parent,
    kill_descendants,
    reap,
    send,
    spawn,
)
from runctl.local.guest.units import Service, expand

_WATCHED = {signal.SIGCHLD, signal.SIGTERM}
_POLL_SECONDS = 0.05


def fork_service(service: Service, *, env: Mapping[str, str], cwd: Path, output: Path) -> int:
    """Start a service below a process of its own, which exits with the service's status."""
    pid = os.fork()
    if not pid:
        _run_parent(service, env=env, cwd=cwd, output=output)
    return pid


def _run_parent(service: Service, *, env: Mapping[str, str], cwd: Path, output: Path) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        os.setsid()
        adopt_orphans()
        signal.set_wakeup_fd(-1)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.closerange(3, 4096)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        for signum in _WATCHED:
            signal.signal(signum, signal.SIG_DFL)
        status = _ServiceParent(service, env, cwd, output).run()
    finally:
        os._exit(status)


class _ServiceParent:
    """Runs a service's commands in order until one fails or it is asked to stop."""

    def __init__(self, service: Service, env: Mapping[str, str], cwd: Path, output: Path) -> None:
        self.service, self.env, self.cwd, self.output = service, env, cwd, output
        self.stopping = False

    def run(self) -> int:
        status = 0
        for command, may_fail in (*self.service.before, *self.service.commands):
            status = self._run_command(command)
            if status and not may_fail:
                break
            status = 0
            if self.stopping:
                break
        self._end_the_rest()
        for command, _ in self.service.after:
            self._run_command(command)
        # A service that was asked to stop and died of that signal has stopped cleanly.
        clean = 128 + signal.Signals[self.service.kill_signal]
        return 0 if self.stopping and status == clean else status

    def _run_command(self, command: str) -> int:
        argv = expand(command, self.env)
        main = spawn(argv, env=self.env, cwd=self.cwd, output=self.output)
        asked = False
        deadline = float("inf")
        while True:
            for pid, status in reap():
                if pid == main:
                    return status
            if self.stopping and not asked:
                asked = True
                deadline = time.monotonic() + self.service.stop_timeout.total_seconds()
                send(self._processes_to_signal(main), signal.Signals[self.service.kill_signal])
            if time.monotonic() > deadline:
                send([main], signal.SIGKILL)
            self._wait(min(1.0, max(0.0, deadline - time.monotonic())))

    def _processes_to_signal(self, main: int) -> list[int]:
        if self.service.kill_mode == "control-group":
            return descendants(os.getpid())
        return [] if self.service.kill_mode == "none" else [main]

    def _wait(self, seconds: float) -> None:
        received = signal.sigtimedwait(_WATCHED, seconds)
        if received is not None and received.si_signo == signal.SIGTERM:
            self.stopping = True

    def _end_the_rest(self) -> None:
        if self.service.kill_mode in {"process", "none"}:
            return
        if self.service.kill_mode == "control-group":
            send(descendants(os.getpid()), signal.Signals[self.service.kill_signal])
            deadline = time.monotonic() + self.service.stop_timeout.total_seconds()
            while descendants(os.getpid()) and time.monotonic() < deadline:
                self._wait(_POLL_SECONDS)
                reap()
        kill_descendants()
