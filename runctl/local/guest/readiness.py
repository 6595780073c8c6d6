"""The message with which a service says that it is ready, as sd_notify(3) sends it."""

from __future__ import annotations

import os
import socket
from pathlib import Path


class Readiness:
    """A socket for the messages of one service of `Type=notify`.

    Its address leads through a descriptor of this process, since that of a folder may be too long.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / name
        self._path.unlink(missing_ok=True)
        self._folder = os.open(folder, os.O_PATH)
        self.address = f"/proc/{os.getpid()}/fd/{self._folder}/{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    def has_come(self) -> bool:
        """Return whether the service has said that it is ready."""
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return False
            if b"READY=1" in message.split(b"\n"):
                return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        os.close(self._folder)
