"""The committer of a node of rank 1 or higher: it stores its files, and rank 0 commits them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from runctl.agent.reporting.progress import Progress
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.joining import own_files
from runctl.checkpoint.pinning import read_pinned
from runctl.checkpoint.restore import Fetched
from runctl.checkpoint.save_history import SaveHistory
from runctl.checkpoint.settling import FolderState, Snapshot
from runctl.checkpoint.upload import Uploader
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest, name_of
from runctl.model.errors import FencedError
from runctl.model.identity import node_of_manifest
from runctl.model.run import Run

logger = logging.getLogger(__name__)


class NodeCommitter:
    """Stores what this node has written, save by save; not thread-safe.

    It never changes the run's newest checkpoint. What the node was restored with is not stored
    again: rank 0 has it, too, and decides how long it is kept.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        run_id: str,
        attempt: int,
        rank: int,
        progress: Progress,
        is_fenced: Callable[[], bool],
        given: FolderState,
        run: Run | None = None,
    ) -> None:
        """`given` is what the folder holds before the program has started."""
        self._store = store
        self._run_id = run_id
        self._attempt = attempt
        self._rank = rank
        self._progress = progress
        self._is_fenced = is_fenced
        self._uploader = Uploader(store)
        self._given = given
        self._last: Manifest | None = None
        self._number = 0
        self.history = SaveHistory(run, attempt=attempt, keep_last=1)
        self.committed: list[str] = []
        self.has_continued = False

    @property
    def step(self) -> int | None:
        """The step of what was stored last, or of the checkpoint that was restored."""
        return self.history.step

    def begin_from(self, restored: Fetched, folder_state: FolderState) -> None:
        """Continue from a restored checkpoint, which is what the folder holds now."""
        self._given = folder_state
        self.history.begin_from(restored, folder_state)
        self._uploader.remember(folder_state, restored.manifest)

    def expected_time(self, size_bytes: int) -> timedelta:
        """Estimate how long files of `size_bytes` will take to upload."""
        return self._uploader.expected_time(size_bytes)

    def commit(
        self,
        snapshot: Snapshot,
        place: Path,
        *,
        reported_step: int | None,
        superseded: threading.Event,
        until: float = float("inf"),
    ) -> None:
        """Store what is this node's own in a snapshot that is pinned at `place`."""
        del until
        began = time.monotonic()
        reach("save.pinned")
        own = own_files(snapshot.view, self._given)
        if not own and self._last is None:
            return
        uploaded = self._uploader.upload(replace(snapshot, view=own), place, superseded=superseded)
        reach("save.parts_stored")
        entries = sorted(
            (*uploaded.entries, *snapshot.carried(self._last)), key=lambda entry: entry.path
        )
        read = partial(read_pinned, snapshot.view, snapshot.contents, place)
        judged = self.history.judge(snapshot, reported_step, read)
        now = datetime.now(timezone.utc)
        manifest = Manifest(
            run_id=self._run_id,
            step=judged.step,
            save=self._number + 1,
            attempt=self._attempt,
            taken_at=now.isoformat(),
            entries=tuple(entries),
            metadata={"rank": self._rank},
        )
        if self._is_fenced():
            raise FencedError("a later attempt owns the run")
        key = self._store.put_node_manifest(manifest)
        reach("save.node_manifest_stored")
        place_of_key = node_of_manifest(key)
        self._number = manifest.save if place_of_key is None else place_of_key[2]
        self._last = manifest
        self.history.add(key, manifest, snapshot, judged, read)
        self._progress.report_gang(part=key, part_step=judged.step)
        self._progress.note_saving(size_bytes=manifest.size_bytes)
        self._progress.mark("committed", now)
        self._progress.warn("", about="save")
        logger.info(
            "stored the files of node %d of %s: %d bytes, %d of them new, in %.2f s",
            self._rank,
            name_of(judged.step, manifest.save),
            manifest.size_bytes,
            uploaded.new_bytes,
            time.monotonic() - began,
        )

    def save_partial(self, snapshot: Snapshot, place: Path, *, reasons: Sequence[str] = ()) -> None:
        """Store nothing: a part of an unfinished save is of no use without the others'."""

    def remove_old(self) -> None:
        """Remove nothing: the node of rank 0 knows which checkpoints are kept."""
