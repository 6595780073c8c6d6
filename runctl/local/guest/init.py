"""The first process of an instance: it runs user data and units, and ends everything with itself.

It reads orders as lines of JSON on standard input and reports events on standard output. The end of
standard input means that the local cloud is gone: then the instance ends, too.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runctl.local.guest import engine, isolation, network_namespaces
from runctl.local.guest.processes import (
    adopt_orphans,
    descendants,
    kill_descendants,
    read_description,
    reap,
    send,
    spawn,
)
from runctl.local.guest.service_manager import ServiceManager
from runctl.local.guest.units import UnitError

_SHIM = """#!{python} -IS
import json, os, socket, sys
folder = os.open({folder!r}, os.O_PATH)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(f"/proc/self/fd/{{folder}}/{socket}")
    connection.sendall(json.dumps([{name!r}, *sys.argv[1:]]).encode() + b"\\n")
    with connection.makefile() as answers:
        code, text = json.loads(answers.readline())
is_answer = sys.argv[1:] and sys.argv[1].startswith(("is-", "show", "status"))
(sys.stderr if code and not is_answer else sys.stdout).write(text)
sys.exit(code)
"""
# The machine's own systemd-run would ask the machine's systemd for a scope.
_RUN_WITHOUT_SCOPE = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        --) shift; break ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec "$@"
"""
# Where the shims reach this process: a folder that only the instance's own user can enter. A name
# without a file (an abstract address) would be open to every user of the machine.
_CONTROL, _SOCKET = "run/runctl-control", "supervisor"
SHIMS = ("systemctl", "shutdown", "poweroff", "halt", "nft", "journalctl")


class Supervisor:
    """The ancestor of everything that runs on an instance."""

    def __init__(
        self, *, root: Path, env: dict[str, str], python: str, grace_seconds: float
    ) -> None:
        self.root, self.env, self.grace_seconds = root, env, grace_seconds
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, str] = {}
        self._going_down: float | None = None
        self._pending_shutdown = 0
        adopt_orphans()
        self._listen_for_signals()
        self._open_gateway(python)
        os.set_blocking(0, False)
        self._orders = b""
        self._selector.register(0, selectors.EVENT_READ, self._read_orders)
        self.services = ServiceManager(root, env, schedule=self.schedule)

    def schedule(self, seconds: float, act: Callable[[], None]) -> None:
        """Run something later, in this process."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), act))

    def run(self) -> None:
        """Serve until the instance has ended."""
        while not self._is_over():
            wait = self._timers[0][0] - time.monotonic() if self._timers else 3600.0
            if self._going_down is not None:
                wait = min(wait, 0.05)
            for key, _ in self._selector.select(max(0.0, wait)):
                key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                act = heapq.heappop(self._timers)[2]
                with contextlib.suppress(UnitError):
                    act()
        self._collect(kill_descendants())

    def _is_over(self) -> bool:
        if self._going_down is None:
            return False
        return time.monotonic() >= self._going_down or not descendants(os.getpid())

    def _report(self, **event: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps(event).encode() + b"\n")

    def _listen_for_signals(self) -> None:
        receiver, sender = socket.socketpair()
        for end in (receiver, sender):
            end.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._power_off(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                receiver.recv(4096)
            self._collect(reap())

        self._selector.register(receiver, selectors.EVENT_READ, drain)
        self._wakeup = sender

    def _open_gateway(self, python: str) -> None:
        control = self.root / _CONTROL
        control.mkdir(parents=True, exist_ok=True)
        control.chmod(0o700)
        (control / _SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        # Through a descriptor: the path may be longer than a socket's name can be.
        folder = os.open(control, os.O_PATH)
        listener.bind(f"/proc/self/fd/{folder}/{_SOCKET}")
        os.close(folder)
        listener.listen(64)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener))
        shims = self.root / "bin"
        shims.mkdir(parents=True, exist_ok=True)
        texts = {
            name: _SHIM.format(python=python, folder=str(control), socket=_SOCKET, name=name)
            for name in SHIMS
        }
        for name, text in {**texts, "systemd-run": _RUN_WITHOUT_SCOPE}.items():
            path = shims / name
            path.write_text(text)
            path.chmod(0o755)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setblocking(True)
        connection.settimeout(5)
        with connection.makefile("rb") as lines:
            line = lines.readline()
        if line:
            self._answer_shim(json.loads(line), connection)

    def _answer_shim(self, argv: list[str], connection: socket.socket) -> None:
        def answer(code: int, text: str) -> None:
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps([code, text]).encode() + b"\n")

        name, *rest = argv
        if name == "systemctl" and rest[:1] in (["poweroff"], ["halt"]):
            name, rest = "poweroff", []
        if name == "systemctl":
            self.services.systemctl(rest, answer)
        elif name == "nft":
            answer(0, "")
        elif name == "journalctl":
            answer(0, self._journal(rest))
        else:
            self._shutdown(rest if name == "shutdown" else ["now"], answer)

    def _journal(self, argv: list[str]) -> str:
        unit = next(
            (argv[i + 1] for i, word in enumerate(argv[:-1]) if word in {"-u", "--unit"}), ""
        )
        path = self.root / "var/log/journal" / (unit if "." in unit else f"{unit}.service")
        path = path.with_name(path.name + ".log")
        return path.read_text(errors="replace") if path.exists() else ""

    def _shutdown(self, argv: list[str], answer: Callable[[int, str], None]) -> None:
        self._pending_shutdown += 1
        mine = self._pending_shutdown
        if {"-c", "-r", "--reboot"} & set(argv):
            cancels = "-c" in argv
            return answer(
                0 if cancels else 1, "" if cancels else "Rebooting is not supported here.\n"
            )
        when = next((word for word in argv if not word.startswith("-")), "+1")
        minutes = 0 if when == "now" else int(when.removeprefix("+"))

        def go() -> None:
            if self._pending_shutdown == mine:
                self._report(event="shutdown")
                self._power_off(None)

        answer(0, "")
        return self.schedule(minutes * 60, go)

    def _power_off(self, grace_seconds: float | None) -> None:
        """Stop everything within the grace period, then exit."""
        if grace_seconds is None:
            grace_seconds = self.grace_seconds
        deadline = time.monotonic() + grace_seconds
        if self._going_down is None:
            self.services.close()
            # Without a grace period, nobody may begin to end in the moment before the SIGKILL.
            if grace_seconds > 0:
                kept = self.services.stop_all()
                send(set(descendants(os.getpid())) - kept, signal.SIGTERM)
        self._going_down = min(deadline, self._going_down or deadline)

    def _read_orders(self) -> None:
        try:
            data = os.read(0, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(0)
            self._power_off(0)
            return
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            match order["do"]:
                case "run":
                    self._run(order)
                case "cancel":
                    self._cancel(order)
                case "power_off":
                    self._power_off(order["grace_seconds"])

    def _run(self, order: dict[str, Any]) -> None:
        errors = order.get("errors")
        pid = spawn(
            order["argv"],
            env={**self.env, **order.get("env", {})},
            cwd=self.root,
            output=Path(order["output"]),
            errors=Path(errors) if errors else None,
        )
        self._jobs[pid] = order["job"]
        if seconds := order.get("timeout_seconds"):
            self.schedule(seconds, lambda: self._time_out(pid, order["job"]))

    def _time_out(self, pid: int, job: str) -> None:
        if self._jobs.get(pid) == job:
            self._report(event="timed_out", job=job)
            send([pid, *descendants(pid)], signal.SIGKILL)

    def _cancel(self, order: dict[str, Any]) -> None:
        for pid, job in list(self._jobs.items()):
            if job == order["job"]:
                send([pid, *descendants(pid)], signal.SIGKILL)

    def _collect(self, ended: list[tuple[int, int]]) -> None:
        for pid, status in ended:
            if pid in self._jobs:
                self._report(event="ended", job=self._jobs.pop(pid), status=status)
            else:
                self.services.ended(pid, status)


def main() -> None:
    """Run an instance: the first line of standard input describes it."""
    description = read_description()
    if description is None:
        return
    root = Path(description["root"])
    # As on EC2, whatever the developer's is; the root's own folder keeps others out.
    os.umask(0o022)
    control_group = description["control_group"]
    if network := description["network"]:
        network_namespaces.enter(network["namespace"], network["host_name"])
    if description["own_paths"]:
        shared = [Path(shared_folder) for shared_folder in description["shared_folders"]]
        isolation.isolate(
            root, shared, has_engine=bool(control_group), has_user=description["own_user"]
        )
    if network:
        network_namespaces.resolve_host_name(root, network["host_name"], network["address"])
    if control_group:
        engine.install(root, control_group)
    Supervisor(
        root=root,
        env=description["env"],
        python=description["python"],
        grace_seconds=description["grace_seconds"],
    ).run()
    if control_group:  # here, too, since the local cloud may have been killed
        engine.remove_control_groups(control_group)


if __name__ == "__main__":
    main()
