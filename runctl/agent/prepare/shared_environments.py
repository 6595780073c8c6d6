"""The environments that are stored for all runs, as one run may use them."""

import logging
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from runctl.agent.prepare.built_files import READY
from runctl.aws.environments import EnvironmentStore, RunGeneration
from runctl.checkpoint.file_fetcher import FileFetcher
from runctl.model.checkpoint import Manifest
from runctl.model.errors import DamagedCheckpointError

MAX_FILES = 400_000
MAX_BYTES = 100_000_000_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The only manifest that a run accepts for a fingerprint, and the store that has it."""

    digest: str
    store: EnvironmentStore


class SharedEnvironments:
    """Finds, records and fetches what a run uses. Each call raises what the store raises.

    A run that may not store what others execute looks in its own area, too.
    """

    def __init__(self, store: EnvironmentStore, run_id: str, folder: Path) -> None:
        self._stores = [store]
        self._run_id = run_id
        self._incoming = folder / "incoming"

    def keep_in(self, area: str) -> None:
        """Use the environments of an area as well as those that all runs share."""
        shared = self._stores[0]
        self._stores = [shared, shared.of_area(area)] if area else [shared]

    def accepted(self, fingerprint: str, generation: int) -> Accepted | None:
        """Return the only manifest that the run accepts; None if none is stored.

        It is recorded with the run before anything of the environment is used.
        """
        run = RunGeneration(run_id=self._run_id, generation=generation)
        for store in self._stores:
            if (recorded := store.used_by(run, fingerprint)) is not None:
                return Accepted(digest=recorded, store=store)
        for store in self._stores:
            if (current := store.current(fingerprint)) is not None:
                digest = store.record_use_by(run, fingerprint, current.manifest)
                return Accepted(digest=digest, store=store)
        return None

    def is_stored(self, fingerprint: str) -> bool:
        """Whether new runs, or those with the same area, find an environment of that name."""
        return any(store.current(fingerprint) is not None for store in self._stores)

    def fetch(self, fingerprint: str, accepted: Accepted, target: Path) -> None:
        """Fetch an environment into a new folder and mark it as ready.

        Raises DamagedCheckpointError if it is not as the digest says, or larger than permitted.
        """
        store = accepted.store
        manifest = store.get_manifest(fingerprint, accepted.digest)
        _check_size(manifest)
        files = FileFetcher(store, self._incoming)
        try:
            files.fetch_files(manifest)
            files.put_in_place(manifest, target)
        finally:
            shutil.rmtree(self._incoming, ignore_errors=True)
        (target / READY).write_text(accepted.digest)
        store.note_use(fingerprint, datetime.now(timezone.utc).date())


def _check_size(manifest: Manifest) -> None:
    if len(manifest.entries) > MAX_FILES or manifest.size_bytes > MAX_BYTES:
        raise DamagedCheckpointError(
            f"the stored environment has {len(manifest.entries):,} files and "
            f"{manifest.size_bytes:,} bytes, more than {MAX_FILES:,} or {MAX_BYTES:,}"
        )
