"""The prefetch: the checkpoint to restore, fetched before it is certain which one that is."""

import logging
import threading
from concurrent.futures import Future
from pathlib import Path

from runctl.agent.instance.disk import says_full
from runctl.agent.signals.waiting import CancellableWait
from runctl.checkpoint.candidates import Trust
from runctl.checkpoint.restore import Restorer
from runctl.model.errors import RunctlError

logger = logging.getLogger(__name__)


class CheckpointPrefetch:
    """Fetches checkpoints in the background, as long as nothing else needs their space."""

    def __init__(self, restorer: Restorer, wait: CancellableWait) -> None:
        self._restorer = restorer
        self._wait = wait
        self._wanted: tuple[str, Trust] | None = None
        self._begun: list[Future[None]] = []
        self._lock = threading.Lock()
        self._is_allowed = True

    def begin(self, newest: str, trust: Trust, *, reuse: Path) -> None:
        """Begin to fetch a checkpoint, only once; what the folder `reuse` has is not fetched."""
        if self._wanted == (newest, trust):
            return
        self._wanted = newest, trust
        with self._lock:
            if self._is_allowed:
                self._begun.append(self._wait.start(lambda: self._fetch(newest, trust, reuse)))

    def finish(self) -> None:
        """Wait until nothing is being fetched, and what did not fit is removed."""
        for fetch in tuple(self._begun):
            fetch.result()

    def give_way(self) -> bool:
        """Discard what was fetched, and fetch nothing any more; return whether that may help."""
        with self._lock:
            self._is_allowed, has_begun = False, bool(self._begun)
        if has_begun:
            self.finish()
            self._restorer.discard()
        return has_begun

    def _fetch(self, newest: str, trust: Trust, reuse: Path) -> None:
        try:
            self._restorer.fetch(newest, trust, reuse=reuse)
        except (RunctlError, OSError) as exc:
            if says_full(exc):  # the environment comes first
                self._restorer.discard()
            logger.info("the prefetch failed, and the restore will try again: %s", exc)
