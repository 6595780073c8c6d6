"""The checkpoint that a run evaluates, in the input folder of its program."""

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.file_fetcher import FileFetcher
from runctl.model.evaluation_options import CHECKPOINT
from runctl.model.subject import Subject

READ_ONLY = ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)

logger = logging.getLogger(__name__)


class SubjectLoader:
    """Restores checkpoints of other runs into the input folder, one at a time, read only."""

    def __init__(
        self, checkpoints: Callable[[str], CheckpointStore], *, inputs: Path, state: Path
    ) -> None:
        self._checkpoints = checkpoints
        self.folder = inputs / CHECKPOINT
        self._incoming = state / "incoming-subject"

    def load(self, subject: Subject) -> None:
        """Make the folder equal to the checkpoint; DamagedCheckpointError if it is not whole.

        Unlike for a run's own checkpoints, no earlier one takes its place: it would be another
        result.
        """
        began = time.monotonic()
        store = self._checkpoints(subject.run_id)
        manifest = store.get_manifest(subject.key)
        fetcher = FileFetcher(store, self._incoming)
        fetcher.fetch_files(manifest)
        self.remove()
        fetcher.put_in_place(manifest, self.folder)
        for base, folders, files in os.walk(self.folder, topdown=False):
            for name in (*files, *folders):
                _protect(Path(base) / name)
        logger.info(
            "restored %s of %s, %d bytes, in %.2f s",
            subject.name,
            subject.run_id,
            manifest.size_bytes,
            time.monotonic() - began,
        )

    def remove(self) -> None:
        """Remove the checkpoint that is in place."""
        for base, folders, _ in os.walk(self.folder):
            for name in folders:
                path = Path(base) / name
                if not path.is_symlink():
                    path.chmod(0o700)  # only root may change what is read only
        shutil.rmtree(self.folder, ignore_errors=True)


def _protect(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(stat.S_IMODE(path.stat().st_mode) & READ_ONLY)
