"""Keeping checkpoints: watching the folder, uploading what has settled, committing it."""

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent import processes
from runctl.agent.faults import reach
from runctl.agent.inbox import Cause, Ending, Inbox
from runctl.agent.logs import Follower
from runctl.agent.pins import pin
from runctl.agent.ports import AgentLedger
from runctl.agent.progress import Progress
from runctl.agent.restore import PREVIOUS, Fetched
from runctl.agent.retention import remove_old_checkpoints
from runctl.agent.snapshot import ChangedError, Settling, Take, View, look
from runctl.agent.steps import step_of
from runctl.agent.upload import SupersededError, Uploader
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Entry, Manifest
from runctl.model.errors import FencedError, RunctlError

LOOK_EVERY = timedelta(milliseconds=200)
IDLE = timedelta(seconds=1)
LOOK_EVERY_WHILE_DRAINING = timedelta(milliseconds=100)
# A large folder must not keep a core busy with being looked at.
LOOK_SHARE = 10
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pinned:
    """A snapshot that is held on to until it is uploaded, and the folder as taken before it."""

    take: Take
    place: Path
    before: View


class Keeper:
    """Commits a checkpoint whenever the folder has settled with something new in it."""

    def __init__(
        self,
        ledger: AgentLedger,
        store: CheckpointStore,
        *,
        run_id: str,
        attempt: int,
        folder: Path,
        pins: Path,
        saved: Path,
        keep_last: int,
        family: Callable[[], list[int]],
        leader: Callable[[], int],
        progress: Progress,
        inbox: Inbox,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._run_id = run_id
        self._attempt = attempt
        self._folder = folder
        self._pins = pins
        self._saves = Follower(saved)
        self._keep_last = keep_last
        self._family = family
        self._leader = leader
        self._progress = progress
        self._inbox = inbox
        self._uploader = Uploader(store)
        self._settling = Settling(look(folder))
        self._manifest: Manifest | None = None
        self._chain: list[str] = []
        self._helper_step: int | None = None
        self._told_late = False
        self._interval = LOOK_EVERY
        self._looked_at_processes = float("-inf")
        self._stop = threading.Event()
        self._superseded = threading.Event()
        self._work = threading.Condition()
        self._pinned: _Pinned | None = None
        self._saving = threading.Lock()
        self._threads = [
            threading.Thread(target=self._watch, name="keeper", daemon=True),
            threading.Thread(target=self._save_pinned, name="saver", daemon=True),
        ]

    @property
    def step(self) -> int | None:
        """The step of the newest checkpoint that is committed, None when there is none."""
        return None if self._manifest is None else self._manifest.step

    @property
    def has_helper(self) -> bool:
        """Whether the trainer has told of a save, so it uses the helper."""
        return self._helper_step is not None

    def begin_from(self, restored: Fetched) -> None:
        """Go on from a restored checkpoint, which is what the folder holds now."""
        self._manifest = restored.manifest
        older = [str(key) for key in restored.manifest.metadata.get(PREVIOUS, ())]
        self._chain = [restored.key, *older]
        self._uploader.remember(self._settling.taken, restored.manifest)

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def hurry(self) -> None:
        """Look more often: the trainer is about to end, and its last moment counts."""
        self._interval = LOOK_EVERY_WHILE_DRAINING

    def expected_upload_time(self) -> timedelta:
        """Guess how long the next checkpoint will take to upload."""
        size = sum(seen.size for seen in look(self._folder).values() if seen.kind == "file")
        return self._uploader.expected_time(size)

    def finish(self, *, orderly: bool, until: float) -> bool:
        """After the trainer's end: commit what the folder holds, if it is whole and new.

        `until` is the monotonic instant at which it is too late. Returns whether all that is whole
        is committed.
        """
        self._stop.set()
        self._threads[0].join()
        self._read_saves()
        with self._work:
            take = self._settling.final(look(self._folder), time.monotonic(), orderly=orderly)
            if take is not None:
                self._superseded.set()
            self._work.notify_all()
        self._threads[1].join(timeout=max(0.0, until - time.monotonic()))
        if take is None:
            return not self._threads[1].is_alive()
        # The trainer and its family have ended: nobody changes the folder any more.
        self._superseded.clear()
        try:
            place = self._pins / "final"
            pinned = _Pinned(_as_pinned(take, self._folder, place), place, self._settling.taken)
            return self._save(pinned, until=until, remove_old=False)
        except ChangedError as exc:
            logger.warning("the last checkpoint cannot be taken: %s", exc)
            return False

    def abandon(self) -> None:
        """Stop at once and commit nothing more."""
        self._stop.set()
        self._superseded.set()
        with self._work:
            self._work.notify_all()
        self._uploader.close()

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._look()
            except Exception:  # whatever it is, the next look must still come
                logger.exception("the checkpoint folder cannot be looked at")
                self._progress.warn(
                    "the checkpoint folder cannot be looked at; see the agent's log"
                )
            took = time.monotonic() - began
            self._stop.wait(max(self._interval.total_seconds(), LOOK_SHARE * took))

    def _look(self) -> None:
        # Before the look: what the helper told is in the folder then. What it tells meanwhile may
        # be there or not, and the step would not be that of the files.
        saved = self._read_saves() or self._told_late
        view = look(self._folder)
        self._told_late = self._read_saves()
        now = time.monotonic()
        idle = self._interval == LOOK_EVERY and self._settling.is_idle(view)
        if idle and now - self._looked_at_processes < IDLE.total_seconds():
            return  # looking through all processes costs more than the folder
        self._looked_at_processes = now
        writing = processes.open_for_writing(self._family(), self._folder)
        processes.reap_orphans(self._leader())
        with self._work:
            # One at a time; what changes meanwhile comes next.
            if self._pinned is not None or self._told_late:
                self._settling.watch_only(view, writing, time.monotonic())
                return
            before = self._settling.taken
            take = self._settling.observe(view, writing, time.monotonic(), saved=saved)
            if take is None:
                return
            place = self._pins / "current"
            try:
                self._pinned = _Pinned(_as_pinned(take, self._folder, place), place, before)
            except ChangedError:
                self._settling.forget_take(before)
            self._work.notify_all()

    def _read_saves(self) -> bool:
        """Read what the helper told about saves that it has renamed into place."""
        saved = False
        for line in self._saves.read():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self._helper_step = int(json.loads(line)["step"])
                saved = True
        return saved

    def _save_pinned(self) -> None:
        while True:
            with self._work:
                while self._pinned is None:
                    if self._stop.is_set():
                        return
                    self._work.wait()
                pinned = self._pinned
            try:
                self._save(pinned, until=float("inf"), remove_old=True)
            except SupersededError:
                return
            except ChangedError as exc:
                logger.info("the folder changed while it was saved; waiting again: %s", exc)
                with self._work:
                    self._settling.forget_take(pinned.before)
            except Exception:  # whatever it is, the next save must still come
                logger.exception("the checkpoint cannot be saved")
                self._progress.warn("the newest checkpoint cannot be saved; see the agent's log")
            finally:
                shutil.rmtree(pinned.place, ignore_errors=True)
                with self._work:
                    self._pinned = None

    def _save(self, pinned: _Pinned, *, until: float, remove_old: bool) -> bool:
        """Upload and commit, however often it takes, until it is too late or superseded."""
        wait = FIRST_WAIT
        while True:
            try:
                with self._saving:
                    self._upload_and_commit(pinned)
                    if remove_old and not self._stop.is_set():
                        self._remove_old()
            except (ChangedError, SupersededError):
                raise
            except FencedError as exc:
                logger.warning("the checkpoint was refused: %s", exc)
                self._inbox.end(
                    Ending(cause=Cause.FENCED, reason=str(exc), detected=datetime.now(timezone.utc))
                )
                return False
            except (RunctlError, ClientError, BotoCoreError, OSError) as exc:
                logger.warning("the checkpoint could not be saved, trying again: %s", exc)
                self._progress.warn(f"the newest checkpoint could not be saved yet: {exc}"[:300])
                if time.monotonic() + wait > until:
                    return False
                if self._superseded.wait(wait):
                    raise SupersededError("a newer snapshot is uploaded instead") from exc
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                return True

    def _upload_and_commit(self, pinned: _Pinned) -> None:
        began = time.monotonic()
        take = pinned.take
        reach("save.pinned")
        uploaded = self._uploader.upload(take, pinned.place, superseded=self._superseded)
        reach("save.parts_stored")
        entries = tuple(
            sorted((*uploaded.entries, *self._carried(take)), key=lambda entry: entry.path)
        )
        now = datetime.now(timezone.utc)
        manifest = Manifest(
            run_id=self._run_id,
            step=self._step_of(take),
            attempt=self._attempt,
            taken_at=now.isoformat(),
            entries=entries,
            metadata={PREVIOUS: self._chain[: max(self._keep_last - 1, 1)]},
        )
        key = self._store.put_manifest(manifest)
        reach("save.manifest_stored")
        if self._inbox.is_fenced:
            raise FencedError("a later attempt owns the run")
        self._ledger.commit_checkpoint(
            self._run_id, self._attempt, step=manifest.step, manifest=key, now=now
        )
        reach("save.committed")
        self._manifest = manifest
        self._chain = [key, *self._chain][: max(self._keep_last, 2)]
        self._progress.mark("committed", now)
        self._progress.warn("")
        logger.info(
            "committed step %d: %d bytes, %d of them new, in %.2f s",
            manifest.step,
            manifest.size_bytes,
            uploaded.new_bytes,
            time.monotonic() - began,
        )

    def _step_of(self, take: Take) -> int:
        """Return the step: the helper's word first; it never goes back."""
        before = self.step
        changed = [path for path in take.changed if path in take.view]
        if self._helper_step is not None and (before is None or self._helper_step >= before):
            return self._helper_step
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

    def _remove_old(self) -> None:
        kept = self._chain[: self._keep_last]
        if self._manifest is None:
            return
        try:
            removed = remove_old_checkpoints(
                self._store, kept, self._manifest, attempt=self._attempt
            )
            self._uploader.forget(removed)
        except (RunctlError, ClientError, BotoCoreError) as exc:
            logger.warning("old checkpoints could not be removed: %s", exc)


def _as_pinned(take: Take, folder: Path, place: Path) -> Take:
    held = pin(folder, take.view, place, hot=take.hot)
    return replace(take, view=held)
