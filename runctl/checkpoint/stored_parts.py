"""A record of which parts the store has, which asks it as seldom as possible."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from runctl.aws.fast_s3.http1 import Buffer
from runctl.aws.parts import PartStore
from runctl.checkpoint.worker_pool import run_workers
from runctl.fault_points import reach
from runctl.model.checkpoint_entry import Part
from runctl.model.errors import RefusedError

# How long a part counts as stored after we saw it; no part younger than a day is collected.
RECHECK_AFTER = timedelta(minutes=10)
# More parts than one call lists are looked up in the list, fewer one by one.
PARTS_OF_A_LIST = 1000

logger = logging.getLogger(__name__)


class StoredParts:
    """The parts of one store, as seen in it; safe to share between threads."""

    def __init__(self, store: PartStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self._has_listed = False

    def list_existing(self) -> None:
        """List once what an earlier attempt, or a save that was never finished, left behind.

        One call covers a thousand parts; asking for each would double the requests of a first save.
        A part missing from the list, which S3 does not allow, would only be stored again.
        """
        if self._has_listed:
            return
        try:
            stored = [part.sha256 for part in self._store.parts()]
        except RefusedError as exc:
            logger.warning("stored parts cannot be listed, so they are sent again: %s", exc)
            stored = []
        self.note(stored)
        self._has_listed = True

    def note(self, digests: Iterable[str]) -> None:
        """Record parts that were just seen in the store."""
        now = time.monotonic()
        with self._lock:
            self._seen.update(dict.fromkeys(digests, now))

    def forget(self, digests: Iterable[str]) -> None:
        """Forget parts that were just removed from the store, so that they are sent when needed."""
        with self._lock:
            for digest in digests:
                self._seen.pop(digest, None)

    def has(self, part: Part) -> bool:
        """Return whether a part was in the store a short while ago."""
        with self._lock:
            seen = self._seen.get(part.sha256)
        return seen is not None and time.monotonic() - seen < RECHECK_AFTER.total_seconds()

    def ask_store(self, part: Part) -> bool:
        """Ask the store whether it has a part."""
        if not self._store.has_part(part):
            return False
        self.note([part.sha256])
        return True

    def find_gone(self, parts: Mapping[str, Part]) -> set[str]:
        """Return the digests of parts that the store no longer has."""
        gone: set[str] = set()

        def check(stale: Iterator[Part]) -> None:
            gone.update(part.sha256 for part in stale if not self.ask_store(part))

        stale = [part for part in parts.values() if not self.has(part)]
        if len(stale) > PARTS_OF_A_LIST:
            self.note(part.sha256 for part in self._store.parts())
            stale = [part for part in stale if not self.has(part)]
        if stale:
            run_workers(stale, check)
        return gone

    def put(self, part: Part, content: Iterable[Buffer]) -> bool:
        """Store a part unless it exists; return whether it was missing.

        Raises DamagedCheckpointError if its bytes do not match its name.
        """
        with self._lock:
            was_seen = part.sha256 in self._seen  # too long ago to rely on
        if was_seen and self.ask_store(part):
            return False
        self._store.put_part(part, content)
        reach("save.first_part_stored")
        self.note([part.sha256])
        return True
