"""Restoring a checkpoint folder from parts that are fetched in advance."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.candidates import NOTHING_KNOWN, Trust, candidates
from runctl.checkpoint.file_fetcher import FileFetcher
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A checkpoint of which every file has been fetched and verified."""

    key: str
    manifest: Manifest


class Restorer:
    """Fetches checkpoints into `incoming`, then moves one into the checkpoint folder."""

    def __init__(self, store: CheckpointStore, incoming: Path) -> None:
        self._store = store
        self._files = FileFetcher(store, incoming)
        self._lock = threading.Lock()
        self.fetched: Fetched | None = None

    def fetch(self, newest: str, trust: Trust = NOTHING_KNOWN) -> Fetched:
        """Fetch the first whole checkpoint of a run, in the order in which they are offered.

        `newest` is the one that the ledger names. What an earlier fetch brought is not fetched
        again. Raises DamagedCheckpointError if none is whole.
        """
        with self._lock:
            first = True
            last: DamagedCheckpointError | None = None
            for candidate in candidates(self._store, newest, trust):
                if self.fetched is not None and self.fetched.key == candidate:
                    return self.fetched
                try:
                    manifest = self._store.get_manifest(candidate)
                    reach("restore.manifest_read")
                    self.fetched = None  # its files may be among those that are removed now
                    self._files.fetch_files(manifest)
                except NewerCheckpointError:
                    raise  # it is whole: nobody may resume from an older one unless asked to
                except DamagedCheckpointError as exc:
                    logger.warning("the checkpoint %s is damaged: %s", candidate, exc)
                    first, last = False, exc
                    continue
                fetched = Fetched(candidate, manifest)
                if first:  # a damaged one may be readable the next time
                    self.fetched = fetched
                return fetched
            raise DamagedCheckpointError(f"no whole checkpoint is left: {last}") from last

    def put_in_place(self, manifest: Manifest, folder: Path) -> None:
        """Make `folder` match the manifest exactly, including times and modes."""
        self._files.put_in_place(manifest, folder)
        self.fetched = None

    def discard(self) -> None:
        """Remove what was fetched."""
        self.fetched = None
        self._files.discard()
