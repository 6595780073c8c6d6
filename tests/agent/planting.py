"""Checkpoints that a test commits itself, as an attempt would."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.ledger import DynamoLedger
from runctl.checkpoint.candidates import PREVIOUS
from runctl.checkpoint.pinning import pin
from runctl.checkpoint.settling import Snapshot, scan_folder
from runctl.checkpoint.upload import Uploader
from runctl.model.checkpoint import Manifest
from runctl.model.run import Run
from tests.agent.machine import now


class Stored(Protocol):
    """The places of a run's checkpoints: the bucket `name`, and the ledger."""

    @property
    def name(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def clients(self) -> Mapping[str, Any]: ...
    @property
    def ledger(self) -> DynamoLedger: ...
    def run(self) -> Run: ...


def plant(
    cloud: Stored,
    files: dict[str, bytes],
    *,
    step: int | None,
    attempt: int = 1,
    keep_last: int = 4,
) -> str:
    """Commit a checkpoint of these files as the run's newest, and return its key."""
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)
    run = cloud.run()
    older = []
    if run.newest is not None:
        older = [run.newest, *store.get_manifest(run.newest).metadata.get(PREVIOUS, ())]
    with tempfile.TemporaryDirectory() as scratch:
        folder, pins = Path(scratch, "folder"), Path(scratch, "pins")
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        view = pin(folder, scan_folder(folder), pins)
        take = Snapshot(view, tuple(view))
        uploaded = Uploader(store).upload(take, pins, superseded=threading.Event())
    manifest = Manifest(
        run_id=cloud.run_id,
        step=step,
        save=run.save + 1,
        attempt=attempt,
        taken_at=now().isoformat(),
        entries=uploaded.entries,
        metadata={PREVIOUS: older[:keep_last]},
    )
    key = store.put_manifest(manifest)
    cloud.ledger.commit_checkpoint(
        cloud.run_id,
        attempt,
        step=step,
        save=manifest.save,
        manifest=key,
        progressed=True,
        now=now(),
    )
    return key
