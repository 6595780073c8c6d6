"""The registry that holds the images: a process of its own, which only the local cloud reaches."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from runctl.local.core import private
from runctl.local.core.protocol import ApiError

_PROGRAM = "docker-registry"
_START_SECONDS = 30.0
_TIMEOUT_SECONDS = 600.0
_SOCKET = "socket"


class Registry:
    """A `docker-registry` process that is started when it is first needed.

    It listens on a socket in a folder that only its owner can enter, and ends with this process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Raise ServerException if there is no registry to start."""
        if shutil.which(_PROGRAM) is None:
            raise ApiError(
                "ServerException",
                f"the local cloud keeps images in {_PROGRAM}, which is not installed; on Debian "
                f"and Ubuntu: apt-get install {_PROGRAM}",
            )

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection to the registry."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.check()
                self._start()
        return _Connection(self._folder / _SOCKET)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _start(self) -> None:
        private.make_folder(self._folder)
        (self._folder / _SOCKET).unlink(missing_ok=True)
        settings = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            # A name relative to its folder: the path of a socket may have 108 characters at most.
            "http": {"net": "unix", "addr": _SOCKET, "relativeurls": True,
                     "secret": secrets.token_hex(16)},
        }  # fmt: skip
        private.write(self._folder / "settings.yml", json.dumps(settings))
        begun: list[subprocess.Popen[bytes]] = []
        started = threading.Event()

        def keep() -> None:
            # The kernel kills it when the thread that started it ends: this one, with the process.
            command = ["setpriv", "--pdeathsig", "KILL", _PROGRAM, "serve", "settings.yml"]
            with private.append(self._folder / "log") as log:
                begun.append(
                    subprocess.Popen(
                        command,
                        cwd=self._folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={"PATH": os.environ.get("PATH", os.defpath)},
                    )
                )
            started.set()
            begun[0].wait()

        threading.Thread(target=keep, daemon=True, name=_PROGRAM).start()
        started.wait(_START_SECONDS)
        if not begun:
            raise ApiError("ServerException", f"{_PROGRAM} could not be started")
        self._process = begun[0]
        self._await_answer(self._process)

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            connection = _Connection(self._folder / _SOCKET)
            try:
                connection.connect()
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")
                    message = f"{_PROGRAM} did not start: {log[-500:]}"
                    raise ApiError("ServerException", message) from None
                time.sleep(0.01)
            else:
                connection.close()
                return


class _Connection(http.client.HTTPConnection):
    """A connection to a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("registry", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect through a descriptor of the folder, whose path may be too long for a name."""
        folder = os.open(self._path.parent, os.O_PATH)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)
