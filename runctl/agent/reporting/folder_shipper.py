"""A folder of outputs whose files grow while the program runs: curves, uploaded now and then.

The other outputs are uploaded at the end of an attempt, which an instance that is lost without a
notice does not reach.
"""

import contextlib
import logging
import os
import threading
from datetime import timedelta
from pathlib import Path

from runctl.agent.ports import Outputs
from runctl.beneath.folder import Folder, walk
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import RunctlError

INTERVAL = timedelta(seconds=60)

logger = logging.getLogger(__name__)


class FolderShipper:
    """Uploads the files below a folder that have changed, as the outputs `name/…`."""

    def __init__(self, outputs: Outputs, folder: Path, name: str, *, attempt: int) -> None:
        self._outputs = outputs
        self._folder = folder
        self._name = name
        self._attempt = attempt
        self._shipped: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin. What is there already was restored, so it is stored."""
        missing = FileNotFoundError, NotADirectoryError
        with contextlib.suppress(*missing), Folder.opened(self._folder) as folder:
            self._shipped = _files(folder)
        self._thread.start()

    def stop(self, *, within: timedelta) -> None:
        """Stop; the end of the attempt uploads all outputs."""
        self._stop.set()
        self._thread.join(timeout=within.total_seconds())

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL.total_seconds()):
            self.ship()

    def ship(self) -> None:
        """Upload what has changed; what cannot be uploaded is tried again."""
        try:
            with Folder.opened(self._folder) as folder:
                self._ship_from(folder)
        except (FileNotFoundError, NotADirectoryError):
            return

    def _ship_from(self, folder: Folder) -> None:
        for path, state in _files(folder).items():
            if self._stop.is_set() or self._shipped.get(path) == state:
                continue
            name = f"{self._name}/{path}"
            try:
                descriptor = folder.open(path)
                try:
                    self._outputs.put(name, OpenedFile(descriptor, name), attempt=self._attempt)
                finally:
                    os.close(descriptor)
            except (RunctlError, OSError, ValueError) as exc:
                logger.info("%a is not uploaded yet: %s", name, exc)
                return
            self._shipped[path] = state


def _files(folder: Folder) -> dict[str, tuple[int, int]]:
    return {
        found.path: (found.info.st_size, found.info.st_mtime_ns)
        for found in walk(folder)
        if found.is_file
    }
