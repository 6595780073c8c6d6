"""The checkpoint saver: uploads and commits what the folder watcher has pinned."""

import logging
import shutil
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Protocol

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.gang_files import PartMissingError
from runctl.agent.saving.pinned import Pinned
from runctl.agent.saving.problems import show_problem
from runctl.agent.saving.save_events import SaveEvents
from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.checkpoint.settling import ChangedError, FolderState, Snapshot
from runctl.checkpoint.upload import SupersededError
from runctl.model.errors import FencedError, RunctlError

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.5, 15.0
# After the last save there has to be this much time left to remove what it replaces.
REMOVAL_SECONDS = 60.0

logger = logging.getLogger(__name__)


class SnapshotCommitter(Protocol):
    """What stores pinned snapshots."""

    def commit(
        self,
        snapshot: Snapshot,
        place: Path,
        *,
        reported_step: int | None,
        superseded: threading.Event,
        until: float,
    ) -> None:
        """Store what is pinned at `place`."""
        ...

    def expected_time(self, size_bytes: int) -> timedelta:
        """Estimate how long an upload takes."""
        ...

    def save_partial(self, snapshot: Snapshot, place: Path, *, reasons: Sequence[str] = ()) -> None:
        """Store what an unfinished save left."""
        ...

    def remove_old(self) -> None:
        """Remove what is not kept."""
        ...


class CheckpointSaver:
    """Commits one pinned snapshot after another, and at the end what is whole in the folder.

    `_committing` guards the committer and the schedule's commits. Two threads use them: the saver's
    own, and the one that ends the attempt, which saves last. It is never held together with the
    watcher's lock: the saver calls the watcher only between two commits.
    """

    def __init__(
        self,
        committer: SnapshotCommitter,
        watcher: FolderWatcher,
        *,
        save_events: SaveEvents,
        schedule: CheckpointSchedule,
        progress: Progress,
        mailbox: Mailbox,
    ) -> None:
        self._committer = committer
        self._watcher = watcher
        self._save_events = save_events
        self._schedule = schedule
        self._progress = progress
        self._mailbox = mailbox
        self._stop = threading.Event()
        self._superseded = threading.Event()
        self._committing = threading.Lock()
        self._thread = threading.Thread(target=self._save_pinned, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to wait for pinned snapshots."""
        self._thread.start()

    def expected_upload_time(self) -> timedelta:
        """Estimate how long the next checkpoint will take to upload."""
        return self._committer.expected_time(
            _size_of(self._watcher.own(self._watcher.scan() or {}))
        )

    def finish(self, *, until: float, torn: frozenset[str], abrupt: bool) -> bool:
        """Commit what is whole and new in the folder, after all its writers have ended.

        `until` is the monotonic instant at which it is too late; `torn` and `abrupt` as
        `FolderWatcher.judge_final` describes them. Returns whether all that is whole is committed.
        """
        self._stop.set()
        folder_state, snapshot = self._watcher.judge_final(torn=torn, abrupt=abrupt)
        # An incomplete save remains as it is in the snapshot that is being uploaded now.
        if snapshot is not None and not snapshot.incomplete:
            self._superseded.set()
        self._thread.join(timeout=max(0.0, until - time.monotonic()))
        if folder_state is None or (self._thread.is_alive() and not self._superseded.is_set()):
            return False
        saved = snapshot is None or self._save_last(snapshot, until=until)
        if saved and time.monotonic() + REMOVAL_SECONDS < until:
            self._committer.remove_old()
        if saved:
            self._save_partial(folder_state, until=until)
        return saved

    def abandon(self) -> None:
        """Stop at once and commit nothing more."""
        self._stop.set()
        self._superseded.set()
        self._watcher.stop()

    def close(self) -> None:
        """Stop, and wait until nothing is written any more; only then may another saver begin."""
        self.abandon()
        self._watcher.join()
        if self._thread.ident is not None:
            self._thread.join()

    def _save_last(self, snapshot: Snapshot, *, until: float) -> bool:
        # All processes of the trainer have ended: nothing changes the folder any more.
        self._superseded.clear()
        try:
            pinned = self._watcher.pin_final(snapshot)
            saved = self._save(pinned, until=until, remove_old=False)
            shutil.rmtree(pinned.place, ignore_errors=True)
            if saved:
                self._show("", about="pin")
            return saved
        except (ChangedError, PartMissingError, OSError) as exc:
            self._show(f"the last checkpoint cannot be saved: {exc}", about="save")
            return False

    def _save_partial(self, folder_state: FolderState, *, until: float) -> None:
        """Store what an unfinished save left, as far as time allows; not as a checkpoint."""
        files = self._watcher.unfinished_files(folder_state)
        size = _size_of(files)
        needed = self._committer.expected_time(size).total_seconds()
        if not size or time.monotonic() + needed > until or self._mailbox.is_fenced:
            return
        try:
            pinned = self._watcher.pin_unfinished(files)
            self._committer.save_partial(
                pinned.snapshot, pinned.place, reasons=self._watcher.incomplete_reasons
            )
        except (RunctlError, OSError) as exc:
            logger.warning("the unfinished checkpoint could not be kept: %s", exc)

    def _save_pinned(self) -> None:
        while (pinned := self._watcher.next_pinned()) is not None:
            has_changed = False
            try:
                self._save(pinned, until=float("inf"), remove_old=True)
            except SupersededError:
                return
            except ChangedError as exc:
                logger.info("the folder changed while it was saved; waiting again: %s", exc)
                has_changed = True
            except PartMissingError as exc:
                self._show(f"the newest checkpoint is not whole: {exc}", about="save")
                has_changed = True  # what is there by then is tried again
            except Exception as exc:  # whatever it is, the next save must still come
                logger.exception("the checkpoint cannot be saved")
                self._show(f"the newest checkpoint cannot be saved: {exc!r}", about="save")
            finally:
                self._watcher.release(pinned, has_changed=has_changed)

    def _save(self, pinned: Pinned, *, until: float, remove_old: bool) -> bool:
        """Upload and commit; retry until that succeeds, is refused, superseded or too late."""
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                with self._committing:
                    self._commit(pinned, until=until, remove_old=remove_old)
            except (ChangedError, PartMissingError, SupersededError):
                raise
            except FencedError as exc:
                logger.warning("the checkpoint was refused: %s", exc)
                self._mailbox.end(
                    StopRequest(
                        cause=StopCause.FENCED, reason=str(exc), detected=datetime.now(timezone.utc)
                    )
                )
                return False
            except (RunctlError, OSError) as exc:
                self._show(f"the newest checkpoint could not be saved yet: {exc}", about="save")
                if time.monotonic() + wait > until:
                    return False
                if self._superseded.wait(wait):
                    raise SupersededError("a newer snapshot is uploaded instead") from exc
                wait = min(2 * wait, MAX_WAIT_SECONDS)
            else:
                return True

    def _commit(self, pinned: Pinned, *, until: float, remove_old: bool) -> None:
        self._committer.commit(
            pinned.snapshot,
            pinned.place,
            reported_step=pinned.reported_step,
            superseded=self._superseded,
            until=until,
        )
        self._schedule.note_commit(time.monotonic(), cost=self._save_events.cost)
        if remove_old and not self._stop.is_set():
            self._committer.remove_old()

    def _show(self, problem: str, *, about: str) -> None:
        show_problem(self._progress, problem, about=about)


def _size_of(folder_state: FolderState) -> int:
    """Return the size of all files in bytes."""
    return sum(state.size for state in folder_state.values() if state.kind == "file")
