"""A folder of outputs whose files grow while the program runs: curves, uploaded now and then.

The other outputs are uploaded at the end of an attempt, which an instance that is lost without a
notice does not reach.
"""

import logging
import os
import threading
from datetime import timedelta
from pathlib import Path

from runctl.agent.ports import Outputs
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
        self._shipped: dict[Path, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin. What is there already was restored, so it is stored."""
        self._shipped = dict(self._files())
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
        for path, state in self._files().items():
            if self._stop.is_set() or self._shipped.get(path) == state:
                continue
            name = f"{self._name}/{path.relative_to(self._folder).as_posix()}"
            try:
                self._outputs.put(name, path, attempt=self._attempt)
            except (RunctlError, OSError, ValueError) as exc:
                logger.info("%s is not uploaded yet: %s", name, exc)
                return
            self._shipped[path] = state

    def _files(self) -> dict[Path, tuple[int, int]]:
        files = {}
        for base, _, names in os.walk(self._folder):
            for name in names:
                path = Path(base, name)
                if path.is_file() and not path.is_symlink():
                    found = path.stat()
                    files[path] = (found.st_size, found.st_mtime_ns)
        return files
