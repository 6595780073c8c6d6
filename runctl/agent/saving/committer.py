"""The committer: turns a snapshot into the run's newest checkpoint, and applies retention."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.gang_files import GangFiles, OwnSave
from runctl.agent.saving.marks import Marks
from runctl.agent.saving.save_events import SaveEvents
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.candidates import PARTIAL
from runctl.checkpoint.pinning import read_pinned
from runctl.checkpoint.restore import Fetched
from runctl.checkpoint.retention import remove_old_checkpoints
from runctl.checkpoint.save_history import SaveHistory
from runctl.checkpoint.settling import FolderState, Snapshot
from runctl.checkpoint.upload import ASSUMED_BYTES_PER_SECOND, Uploader
from runctl.fault_points import reach
from runctl.model.agent_ledger import AgentLedger
from runctl.model.checkpoint import Manifest, name_of
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import FencedError, RunctlError
from runctl.model.run import Run
from runctl.policy.fallback import SOON, continued_from
from runctl.policy.interval import notice_budget

# In the manifest's metadata: the ranks of the nodes whose files it has.
NODES = "nodes"

logger = logging.getLogger(__name__)


class Committer:
    """Commits snapshots one after another; not thread-safe.

    `history` knows what they add to the run, and `committed` are their keys. `has_continued` is
    true once a snapshot shows that the trainer continued from the checkpoint that it was given.
    With `gang`, a checkpoint has the files of other nodes, too.
    """

    # It joins what is known of the run, the attempt and the request with everything that a commit
    # changes, so it has more parameters than other classes.
    def __init__(
        self,
        ledger: AgentLedger,
        store: CheckpointStore,
        *,
        run_id: str,
        attempt: int,
        keep_last: int,
        may_be_interrupted: bool,
        saves: SaveEvents,
        progress: Progress,
        is_fenced: Callable[[], bool],
        run: Run | None = None,
        gang: GangFiles | None = None,
    ) -> None:
        self._ledger = ledger
        self._gang = gang
        self._store = store
        self._run_id = run_id
        self._attempt = attempt
        self._may_be_interrupted = may_be_interrupted
        self._saves = saves
        self._progress = progress
        self._is_fenced = is_fenced
        self._marks = Marks(ledger, run_id=run_id, attempt=attempt)
        self._given: Fetched | None = None
        self._begun = time.monotonic()
        self._has_proved = False
        self.committed: list[str] = []
        self.has_continued = False
        self._uploader = Uploader(store)
        self._manifest: Manifest | None = None
        self._has_committed = False
        self.history = SaveHistory(run, attempt=attempt, keep_last=keep_last)
        self._pinned: frozenset[str] = frozenset()
        self._has_partials = True  # an earlier attempt may have left some

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint that is committed, None when it is not known."""
        return self.history.step

    def begin_from(self, restored: Fetched, folder_state: FolderState) -> None:
        """Continue from a restored checkpoint, which is what the folder holds now."""
        self._manifest, self._given = restored.manifest, restored
        self._begun = time.monotonic()
        self.history.begin_from(restored, folder_state)
        self._uploader.remember(folder_state, restored.manifest)

    def expected_time(self, size_bytes: int) -> timedelta:
        """Estimate how long a checkpoint of `size_bytes` will take to upload."""
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
        """Upload what is pinned at `place`, and make it the run's newest checkpoint.

        `reported_step` is the step that the helper had reported when it was pinned, which may have
        reported a later one by now. `until` is the monotonic instant at which it is too late.
        Raises PartMissingError if other nodes lack files of it.
        """
        began = time.monotonic()
        reach("save.pinned")
        uploaded = self._uploader.upload(snapshot, place, superseded=superseded)
        reach("save.parts_stored")
        carried = snapshot.carried(self._manifest)
        entries = tuple(sorted((*uploaded.entries, *carried), key=lambda entry: entry.path))
        now = datetime.now(timezone.utc)
        read = partial(read_pinned, snapshot.view, snapshot.contents, place)
        judged = self.history.judge(snapshot, reported_step, read)
        step, metadata = judged.step, self.history.metadata_of(judged)
        if self._gang is not None:
            before = () if self._manifest is None else self._manifest.entries
            own = OwnSave(snapshot=snapshot, entries=entries, step=step, read=read, before=before)
            joined = self._gang.join(
                own, find_gone=self._uploader.find_gone, superseded=superseded, until=until
            )
            entries, metadata = joined.entries, {**metadata, NODES: [0, *joined.ranks]}
        manifest = self._manifest_of(entries, step=step, now=now, metadata=metadata)
        key = self._store.put_manifest(manifest)
        reach("save.manifest_stored")
        if self._is_fenced():
            raise FencedError("a later attempt owns the run")
        self._pinned = self._ledger.commit_checkpoint(
            self._run_id,
            self._attempt,
            step=step,
            save=manifest.save,
            manifest=key,
            progressed=self.history.is_progress(judged),
            now=now,
            size_bytes=manifest.size_bytes,
        )
        reach("save.committed")
        self._manifest, self._has_committed = manifest, True
        self._warn_of_a_new_start(self.history.add(key, manifest, snapshot, judged, read))
        self._note_use_of_given(key, manifest)
        self._note_budget(manifest)
        self._progress.mark("committed", now)
        self._progress.warn("", about="save")
        logger.info(
            "committed %s: %d bytes, %d of them new, in %.2f s",
            name_of(step, manifest.save),
            manifest.size_bytes,
            uploaded.new_bytes,
            time.monotonic() - began,
        )

    def _note_use_of_given(self, key: str, manifest: Manifest) -> None:
        """Mark the restored checkpoint as proven once the trainer has saved beyond it."""
        self.committed.append(key)
        given = self._given
        if given is None or self._has_proved:
            return
        self.has_continued = self.has_continued or continued_from(given.manifest, manifest)
        if self.has_continued:
            self._has_proved = self._marks.prove(given.key)
            self.history.note_proven(given.key)

    def save_partial(self, snapshot: Snapshot, place: Path, *, reasons: Sequence[str] = ()) -> None:
        """Store what an unfinished save left, for a trainer that asks for it; never as the newest.

        `reasons` say why it is not complete, as far as that is known.
        """
        uploaded = self._uploader.upload(snapshot, place, superseded=threading.Event())
        if self._is_fenced():
            raise FencedError("a later attempt owns the run")
        manifest = self._manifest_of(
            uploaded.entries,
            step=self.step,
            now=datetime.now(timezone.utc),
            metadata={PARTIAL: True, "reasons": list(reasons)},
        )
        self._store.put_partial(manifest)
        logger.info("kept %d bytes of an unfinished checkpoint", manifest.size_bytes)

    def remove_old(self) -> None:
        """Remove checkpoints beyond those to keep, and partial ones older than a whole one."""
        if self._manifest is None or not self._has_committed:
            return
        # Other runs may need checkpoints that this one does not.
        kept = list(dict.fromkeys((*self.history.kept, *sorted(self._pinned))))
        try:
            if self._has_partials:
                self._store.delete_partials()
                self._has_partials = False
            if self._may_fall_back():
                return
            removed = remove_old_checkpoints(
                self._store,
                kept,
                self._manifest,
                attempt=self._attempt,
                read_node_manifest=None if self._gang is None else self._gang.read,
            )
            self._uploader.forget(removed)
        except RunctlError as exc:
            logger.warning("old checkpoints could not be removed: %s", exc)

    def _may_fall_back(self) -> bool:
        """Whether the trainer may still die of what it was given: then those before are needed."""
        is_new = time.monotonic() - self._begun < SOON.total_seconds()
        return self._given is not None and not self.has_continued and is_new

    def _manifest_of(
        self,
        entries: tuple[Entry, ...],
        *,
        step: int | None,
        now: datetime,
        metadata: dict[str, object],
    ) -> Manifest:
        return Manifest(
            run_id=self._run_id,
            step=step,
            save=self.history.next_save,
            attempt=self._attempt,
            taken_at=now.isoformat(),
            entries=entries,
            metadata=metadata,
        )

    def _warn_of_a_new_start(self, warning: str) -> None:
        """Warn that the trainer did not continue from its checkpoint; that stays in the status."""
        if warning and self._progress.warn(warning, about="resume"):
            logger.warning("%s", warning)

    def _note_budget(self, manifest: Manifest) -> None:
        """Note how long a last save takes, and warn if that does not fit into a notice."""
        speed = self._uploader.bytes_per_second
        measured = None if speed == ASSUMED_BYTES_PER_SECOND else speed
        self._progress.note_saving(size_bytes=manifest.size_bytes, bytes_per_second=measured)
        if not self._may_be_interrupted:
            return
        budget = notice_budget(
            size_bytes=manifest.size_bytes,
            bytes_per_second=speed,
            save_cost=self._saves.cost or timedelta(0),
        )
        self._progress.note_saving(last_save=budget.needed, notice=budget.available)
        self._progress.warn(budget.warning, about="notice")
