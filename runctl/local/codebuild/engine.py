"""A Docker engine for what a local cloud builds, apart from those of its instances."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import runctl
from runctl.local.core import private
from runctl.local.core.interpreter import base_python
from runctl.local.guest import engine

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_MAX_SOCKET_NAME = 107
_LOG_TAIL = 2000
_MAIN = (
    f"import sys; sys.path.insert(0, {str(Path(runctl.__file__).parents[1])!r}); "
    "from runctl.local.guest.engine import main; main()"
)


class EngineNotStartedError(OSError):
    """The engine cannot run here or did not start; the message says why."""


class BuildEngine:
    """An engine that is started when it is first needed, in a folder of its own.

    It ends with this process, and everything that it runs with it. `why_not` is why it cannot run
    on this machine, or empty.
    """

    def __init__(self, folder: Path, *, why_not: str = "") -> None:
        self.folder, self._why_not = folder, why_not
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _control_group(self) -> str:
        return f"runctl-{self.folder.stat().st_ino}"

    def host(self) -> str:
        """Return the value of DOCKER_HOST for the engine, once it answers."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
        return f"unix://{self.folder}/s"

    def close(self) -> None:
        """End the engine with all its containers, and remove its images."""
        with self._lock:
            if self._process is None:
                return
            if self._process.stdin:
                self._process.stdin.close()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            engine.remove_control_groups(self._control_group)
            self._process = None
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        if self._why_not:
            raise EngineNotStartedError(f"no Docker engine: {self._why_not}")
        address = self.folder / "s"
        if len(str(address)) > _MAX_SOCKET_NAME:
            raise EngineNotStartedError(
                f"{address} is too long for the name of a socket; use a local cloud in a folder "
                "with a shorter path (RUNCTL_LOCAL_HOME)"
            )
        if self.folder.exists():  # left by a local cloud that was killed
            shutil.rmtree(self.folder)
        private.make_folder(self.folder)
        # A process namespace, whose first process the kernel lets nothing outlive.
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["--propagation", "slave", base_python(), "-I", "-S", "-c", _MAIN]
        with private.append(self.folder / "log") as log:
            self._process = subprocess.Popen(
                [*command, self.folder, self._control_group],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={"PATH": engine.PATH},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(address):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                said = (self.folder / "log").read_text(errors="replace")[-_LOG_TAIL:]
                raise EngineNotStartedError(f"the Docker engine did not start:\n{said}")
            time.sleep(0.05)


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
        connection.settimeout(_START_SECONDS)
        connection.connect(str(address))
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in connection.recv(4096)
    return False
