"""The environments that are stored for all runs, as one run may use them."""

import logging
import shutil
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


class SharedEnvironments:
    """Finds, records and fetches what a run uses. Each call raises what the store raises."""

    def __init__(self, store: EnvironmentStore, run_id: str, folder: Path) -> None:
        self._store = store
        self._run_id = run_id
        self._incoming = folder / "incoming"

    def accepted(self, fingerprint: str, generation: int) -> str | None:
        """Return the digest of the only manifest that the run accepts; None if none is stored.

        It is recorded with the run before anything of the environment is used.
        """
        run = RunGeneration(run_id=self._run_id, generation=generation)
        recorded = self._store.used_by(run, fingerprint)
        if recorded is not None:
            return recorded
        current = self._store.current(fingerprint)
        if current is None:
            return None
        return self._store.record_use_by(run, fingerprint, current.manifest)

    def is_stored(self, fingerprint: str) -> bool:
        """Whether new runs find an environment of that name."""
        return self._store.current(fingerprint) is not None

    def fetch(self, fingerprint: str, digest: str, target: Path) -> None:
        """Fetch an environment into a new folder and mark it as ready.

        Raises DamagedCheckpointError if it is not as the digest says, or larger than permitted.
        """
        manifest = self._store.get_manifest(fingerprint, digest)
        _check_size(manifest)
        files = FileFetcher(self._store, self._incoming)
        try:
            files.fetch_files(manifest)
            files.put_in_place(manifest, target)
        finally:
            shutil.rmtree(self._incoming, ignore_errors=True)
        (target / READY).write_text(digest)
        self._store.note_use(fingerprint, datetime.now(timezone.utc).date())


def _check_size(manifest: Manifest) -> None:
    if len(manifest.entries) > MAX_FILES or manifest.size_bytes > MAX_BYTES:
        raise DamagedCheckpointError(
            f"the stored environment has {len(manifest.entries):,} files and "
            f"{manifest.size_bytes:,} bytes, more than {MAX_FILES:,} or {MAX_BYTES:,}"
        )
