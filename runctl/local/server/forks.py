"""Processes that are forked from one with the SDK, which the local cloud starts for functions."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from runctl.beneath.kernel_calls import open_process, send_signal
from runctl.local.core.interpreter import base_python

_PROGRAM = Path(__file__).with_name("forking.py")
_PID_BYTES = 20


class ForkedProcess:
    """A process that is not a child of this one, with what ministack uses of a Popen."""

    def __init__(self, handle: int, pipes: Sequence[IO[str]]) -> None:
        self._handle = handle
        self.stdin, self.stdout, self.stderr = pipes
        weakref.finalize(self, os.close, handle)

    def poll(self) -> int | None:
        """Return None while it runs; how it has ended is not known."""
        return 0 if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; raises subprocess.TimeoutExpired."""
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired("function", timeout or 0)
        return 0

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def _has_ended(self, timeout: float | None) -> bool:
        waiting = select.poll()
        waiting.register(self._handle, select.POLLIN)
        return bool(waiting.poll(None if timeout is None else timeout * 1000))

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            send_signal(self._handle, number)


class ForkServer:
    """Starts `forking.py` when the first process is requested, and again if it has ended."""

    def __init__(self, modules: Path) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def start(
        self,
        program: str,
        *,
        folder: Path,
        environment: Mapping[str, str],
        brought: Sequence[str],
    ) -> ForkedProcess:
        """Start a Python program that imports what it has `brought` rather than the SDK's."""
        request = {
            "program": program,
            "folder": str(folder),
            "environment": {**environment, "PYTHONPATH": str(self._modules)},
            "brought": list(brought),
        }
        pipes = [os.pipe() for _ in range(3)]
        (stdin, to), (of_out, stdout), (of_err, stderr) = pipes
        with contextlib.ExitStack() as ours:
            opened = [os.fdopen(to, "w", buffering=1), os.fdopen(of_out), os.fdopen(of_err)]
            files = [ours.enter_context(file) for file in opened]
            try:
                with tempfile.TemporaryFile("w+") as written:
                    json.dump(request, written)
                    written.seek(0)  # which also writes what is buffered
                    handle = self._fork([written.fileno(), stdin, stdout, stderr])
            finally:
                for descriptor in (stdin, stdout, stderr):
                    os.close(descriptor)
            ours.pop_all()
            return ForkedProcess(handle, files)

    def _fork(self, descriptors: list[int]) -> int:
        """Return the pidfd of a new process that is connected to these descriptors."""
        with self._lock:
            for _ in range(2):
                process, requests = self._server = self._server or self._started()
                answer = b""
                with contextlib.suppress(OSError):
                    socket.send_fds(requests, [b"f"], descriptors)
                    answer = requests.recv(_PID_BYTES)
                if answer:
                    try:
                        return open_process(int(answer))
                    finally:
                        with contextlib.suppress(OSError):
                            requests.send(b"o")
                requests.close()
                process.wait()
                self._server = None
        log = self._modules.with_name("cloud.log")
        raise OSError(f"the program that starts functions has ended; {log} says why")

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                # Isolated, it imports nothing from the folder of the program; -P needs Python 3.11.
                [base_python(), "-I", "-S", "-u", str(_PROGRAM), str(self._modules)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        return process, ours
