"""From a snapshot to the run's newest checkpoint: upload, manifest, pointer, retention."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent.candidates import PREVIOUS
from runctl.agent.faults import reach
from runctl.agent.marks import Marks
from runctl.agent.ports import AgentLedger
from runctl.agent.progress import Progress
from runctl.agent.restore import Fetched
from runctl.agent.retention import remove_old_checkpoints
from runctl.agent.saves import Saves
from runctl.agent.snapshot import Take, View
from runctl.agent.steps import step_of
from runctl.agent.upload import ASSUMED_BYTES_PER_SECOND, Uploader
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Entry, Manifest, name_of
from runctl.model.decision import is_progress
from runctl.model.errors import FencedError, RunctlError
from runctl.model.run import Run, best_of
from runctl.policy.fallback import continued_from
from runctl.policy.interval import notice_budget

logger = logging.getLogger(__name__)


class Committer:
    """Commits snapshots one after another.

    `committed` are their keys. `has_continued` once one of them shows that the trainer went on from
    the checkpoint that it was given.
    """

    def __init__(
        self,
        ledger: AgentLedger,
        store: CheckpointStore,
        *,
        run_id: str,
        attempt: int,
        keep_last: int,
        may_be_interrupted: bool,
        saves: Saves,
        progress: Progress,
        is_fenced: Callable[[], bool],
        run: Run | None = None,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._run_id = run_id
        self._attempt = attempt
        self._keep_last = keep_last
        self._may_be_interrupted = may_be_interrupted
        self._saves = saves
        self._progress = progress
        self._is_fenced = is_fenced
        self._marks = Marks(ledger, run_id=run_id, attempt=attempt)
        self._given: Fetched | None = None
        self._has_proved = False
        self.committed: list[str] = []
        self.has_continued = False
        self._uploader = Uploader(store)
        self._manifest: Manifest | None = None
        self._last_save = 0 if run is None else run.save
        self._best_step = None if run is None else run.best_step
        self._given_step: int | None = None
        self._first_step: int | None = None
        self._chain: list[str] = []
        self._has_partials = True  # an attempt before may have left some

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint that is committed, None when it is not known."""
        return None if self._manifest is None else self._manifest.step

    def begin_from(self, restored: Fetched, view: View) -> None:
        """Go on from a restored checkpoint, which is what the folder holds now."""
        self._manifest, self._given = restored.manifest, restored
        self._given_step = restored.manifest.step
        older = [str(key) for key in restored.manifest.metadata.get(PREVIOUS, ())]
        self._chain = [restored.key, *older]
        self._uploader.remember(view, restored.manifest)

    def expected_time(self, size_bytes: int) -> timedelta:
        """Guess how long a checkpoint of so many bytes will take to upload."""
        return self._uploader.expected_time(size_bytes)

    def commit(
        self, take: Take, place: Path, *, told: int | None, superseded: threading.Event
    ) -> None:
        """Upload what is pinned at `place`, and make it the run's newest checkpoint.

        `told` is the step that the helper had told when it was pinned: by now it may be at a later.
        """
        began = time.monotonic()
        reach("save.pinned")
        uploaded = self._uploader.upload(take, place, superseded=superseded)
        reach("save.parts_stored")
        entries = tuple(
            sorted((*uploaded.entries, *self._carried(take)), key=lambda entry: entry.path)
        )
        now = datetime.now(timezone.utc)
        step = self._step_of(take, told)
        first_step = step if self._first_step is None else self._first_step
        manifest = self._manifest_of(
            entries,
            step=step,
            now=now,
            metadata={PREVIOUS: self._chain[: max(self._keep_last - 1, 1)]},
        )
        key = self._store.put_manifest(manifest)
        reach("save.manifest_stored")
        if self._is_fenced():
            raise FencedError("a later attempt owns the run")
        self._ledger.commit_checkpoint(
            self._run_id,
            self._attempt,
            step=step,
            save=manifest.save,
            manifest=key,
            progressed=is_progress(
                step=step,
                first_step=first_step,
                given_step=self._given_step,
                best_step=self._best_step,
                has_news=bool(take.changed),
            ),
            now=now,
        )
        reach("save.committed")
        self._manifest, self._first_step = manifest, first_step
        self._last_save = manifest.save
        if step is not None:
            self._best_step = best_of(self._best_step, step)
        self._chain = [key, *self._chain][: max(self._keep_last, 2)]
        self._note_use_of_given(key, manifest)
        self._tell_budget(manifest)
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

    def save_partial(self, take: Take, place: Path) -> None:
        """Keep what an unfinished save left, for a trainer that asks for it; never the newest."""
        uploaded = self._uploader.upload(take, place, superseded=threading.Event())
        if self._is_fenced():
            raise FencedError("a later attempt owns the run")
        manifest = self._manifest_of(
            uploaded.entries,
            step=self.step,
            now=datetime.now(timezone.utc),
            metadata={"partial": True},
        )
        self._store.put_partial(manifest)
        logger.info("kept %d bytes of an unfinished checkpoint beside", manifest.size_bytes)

    def remove_old(self) -> None:
        """Remove checkpoints beyond those to keep, and what is partial and older than a whole."""
        kept = self._chain[: self._keep_last]
        if self._manifest is None:
            return
        try:
            if self._has_partials:
                self._store.delete_partials()
                self._has_partials = False
            removed = remove_old_checkpoints(
                self._store, kept, self._manifest, attempt=self._attempt
            )
            self._uploader.forget(removed)
        except (RunctlError, ClientError, BotoCoreError) as exc:
            logger.warning("old checkpoints could not be removed: %s", exc)

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
            save=self._last_save + 1,
            attempt=self._attempt,
            taken_at=now.isoformat(),
            entries=entries,
            metadata=metadata,
        )

    def _step_of(self, take: Take, told: int | None) -> int:
        """Return the step: the helper's word first; it never goes back."""
        before = self.step
        changed = [path for path in take.changed if path in take.view]
        if told is not None and (before is None or told >= before):
            return told
        if not changed and before is not None:
            return before
        step = step_of(changed, before=before)
        return step if before is None else max(step, before)

    def _carried(self, take: Take) -> tuple[Entry, ...]:
        """Return what the checkpoint before has of the units that are being written to."""
        if self._manifest is None or not take.left_out:
            return ()
        return tuple(
            entry
            for entry in self._manifest.entries
            if entry.path.partition("/")[0] in take.left_out
        )

    def _tell_budget(self, manifest: Manifest) -> None:
        """Say from the first save on what a last one takes, and when it will not fit a notice."""
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
