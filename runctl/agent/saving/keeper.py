"""Keeping checkpoints: watching the folder, uploading what has settled, committing it."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent.instance import processes
from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.save_events import SaveEvents
from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.checkpoint.databases import Databases, Replaced
from runctl.checkpoint.inspector import Inspector
from runctl.checkpoint.pinning import hold_on_to, pin
from runctl.checkpoint.restore import Fetched
from runctl.checkpoint.settling import ChangedError, FolderState, Settling, Snapshot, look
from runctl.checkpoint.upload import SupersededError
from runctl.checkpoint.wholeness import Wholeness
from runctl.model.errors import CheckpointError, FencedError, RunctlError
from runctl.model.excerpt import shorten_reason

LOOK_EVERY = timedelta(milliseconds=200)
IDLE = timedelta(seconds=1)
LOOK_EVERY_WHILE_DRAINING = timedelta(milliseconds=100)
# A large folder must not keep a core busy with being looked at.
LOOK_SHARE = 10
FIRST_WAIT, MAX_WAIT = 0.5, 15.0
MAX_WARNING_LENGTH = 300
# After the last save there has to be this much time left to remove what it replaces.
REMOVAL = 60.0
MAX_ITEMS_SHOWN = 3
NEVER_CLOSED = (
    ": open for writing all the time, and cannot be saved while the trainer runs. Close a file "
    "after each save, or write to another name and rename it"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pinned:
    """A snapshot that is held on to until it is uploaded, and the folder as taken before it.

    `told` is the step that the helper had told of by then.
    """

    snapshot: Snapshot
    place: Path
    before: FolderState
    told: int | None


class Keeper:
    """Commits a checkpoint whenever the folder has settled with something new in it."""

    def __init__(
        self,
        committer: Committer,
        *,
        folder: Path,
        pins: Path,
        spare: Path,
        saves: SaveEvents,
        pace: CheckpointSchedule,
        family: Callable[[], list[int]],
        leader: Callable[[], int],
        progress: Progress,
        mailbox: Mailbox,
    ) -> None:
        self._committer = committer
        self._folder = folder
        self._pins = pins
        self._spare = spare
        self._save_events = saves
        self._schedule = pace
        self._family = family
        self._leader = leader
        self._progress = progress
        self._mailbox = mailbox
        inspector = Inspector(folder)
        self._settling = Settling(look(folder), wholeness=Wholeness(inspector))
        self._databases = Databases(folder, pins / "databases", inspector)
        self._held = (pins / "seen", self._databases.place)
        self._told = self._told_late = False
        self._step_taken: int | None = None
        self._interval = LOOK_EVERY
        self._looked_at_processes = float("-inf")
        self._alive_at: float | None = None
        self._stop = threading.Event()
        self._is_held = threading.Event()
        self._superseded = threading.Event()
        self._work = threading.Condition()
        self._pinned: _Pinned | None = None
        self._saving = threading.Lock()
        self._threads = [
            threading.Thread(target=self._watch, name="keeper", daemon=True),
            threading.Thread(target=self._save_pinned, name="saver", daemon=True),
        ]

    @property
    def folder(self) -> Path:
        """The checkpoint folder."""
        return self._folder

    def begin_from(self, restored: Fetched) -> None:
        """Go on from a restored checkpoint, which is what the folder holds now."""
        self._committer.begin_from(restored, self._settling.taken)

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def hurry(self) -> None:
        """Look more often: the trainer is about to end, and its last moment counts."""
        self._interval = LOOK_EVERY_WHILE_DRAINING

    def expected_upload_time(self) -> timedelta:
        """Guess how long the next checkpoint will take to upload."""
        size = sum(seen.size for seen in (self._last_view() or {}).values() if seen.kind == "file")
        return self._committer.expected_time(size)

    def finish(self, *, until: float, torn: frozenset[str], abrupt: bool) -> bool:
        """After the end of all that wrote to the folder: commit what is whole and new in it.

        `until` is the monotonic instant at which it is too late. `torn` are the files that were
        open to write when their writer was killed, `abrupt` says that a writer died without
        running its own exit. Returns whether all that is whole is committed.
        """
        self._stop.set()
        self._threads[0].join()
        self._save_events.read()
        view = self._last_view()
        with self._work:
            told = self._save_events.step != self._step_taken
            snapshot = None
            if view is not None:
                view, torn = self._databases.at_rest(view, torn)
                snapshot = self._settling.final(
                    view,
                    time.monotonic(),
                    torn=torn,
                    abrupt=abrupt,
                    saved=told,
                    is_over=self._interval == LOOK_EVERY,
                    databases=self._databases.paths,
                    alive_at=self._alive_at,
                )
                self._report_incomplete(time.monotonic())
            # What is left out stays as the snapshot has it that is being uploaded now.
            if snapshot is not None and not snapshot.incomplete:
                self._superseded.set()
            self._work.notify_all()
        self._threads[1].join(timeout=max(0.0, until - time.monotonic()))
        if view is None or (self._threads[1].is_alive() and not self._superseded.is_set()):
            return False
        saved = snapshot is None or self._save_last(snapshot, until=until)
        if saved and time.monotonic() + REMOVAL < until:
            self._committer.remove_old()
        if saved:
            self._keep_partial(view, until=until)
        return saved

    def _save_last(self, snapshot: Snapshot, *, until: float) -> bool:
        # The trainer and its family have ended: nobody changes the folder any more.
        self._superseded.clear()
        try:
            place, held = self._pin_last(snapshot)
            pinned = _Pinned(held, place, self._settling.taken, self._save_events.step)
            saved = self._save(pinned, until=until, remove_old=False)
            if saved:
                self._tell("pin", "")
            return saved
        except (ChangedError, OSError) as exc:
            self._tell("save", f"the last checkpoint cannot be taken: {exc}")
            return False

    def _last_view(self) -> FolderState | None:
        """Look at the folder; when that is not possible, tell it and return None."""
        try:
            return look(self._folder)
        except OSError as exc:
            self._tell_no_look(exc)
            return None

    def _pin_last(self, snapshot: Snapshot) -> tuple[Path, Snapshot]:
        """Pin the last snapshot; on a full disk what is in memory points to where the files lie."""
        try:
            return self._pins / "final", _as_pinned(snapshot, self._folder, self._pins / "final")
        except OSError as exc:
            logger.warning("the last checkpoint is read where it lies: %s", exc)
            return self._spare, _as_pinned(snapshot, self._folder, self._spare)

    def _keep_partial(self, view: FolderState, *, until: float) -> None:
        """Keep what an unfinished save left beside the whole checkpoint, as far as time allows."""
        torn = {
            path: seen
            for path, seen in view.items()
            if seen.kind == "file" and self._settling.taken.get(path) != seen
        }
        size = sum(seen.size for seen in torn.values())
        needed = self._committer.expected_time(size).total_seconds()
        if not size or time.monotonic() + needed > until or self._mailbox.is_fenced:
            return
        try:
            place = self._pins / "partial"
            held = pin(self._folder, torn, place)
            reasons = self._settling.wholeness.reasons
            self._committer.save_partial(Snapshot(held, tuple(held)), place, reasons=reasons)
        except (RunctlError, ClientError, BotoCoreError, OSError) as exc:
            logger.warning("the unfinished checkpoint could not be kept: %s", exc)

    def hold(self) -> None:
        """Take nothing more until `finish`: what is closed now may be torn by its writer's end."""
        self._is_held.set()

    def _has_ended(self) -> bool:
        now, leader = time.monotonic(), self._leader()
        if leader > 0 and processes.is_exiting(leader):
            return True
        self._alive_at = now
        return False

    def abandon(self) -> None:
        """Stop at once and commit nothing more."""
        self._stop.set()
        self._superseded.set()
        with self._work:
            self._work.notify_all()

    def close(self) -> None:
        """Stop, and wait until nothing is written any more; only then may another keeper begin."""
        self.abandon()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._look()
                self._tell("look", "")
            except Exception as exc:  # noqa: BLE001 - whatever it is, the next look must still come
                self._tell_no_look(exc)
            took = time.monotonic() - began
            self._stop.wait(max(self._interval.total_seconds(), LOOK_SHARE * took))

    def _look(self) -> None:
        # Before the look: what the helper told is in the folder then. What it tells meanwhile may
        # be there or not, and the step would not be that of the files.
        self._told = self._save_events.read() or self._told_late or self._told
        if not self._folder.is_dir():
            raise CheckpointError(
                f"{self._folder} is no folder any more; the last checkpoint stands"
            )
        view = look(self._folder, self._settling.seen)
        self._told_late = self._save_events.read()
        now = time.monotonic()
        idle = self._interval == LOOK_EVERY and not self._told and self._settling.is_idle(view)
        if idle and now - self._looked_at_processes < IDLE.total_seconds():
            return  # looking through all processes costs more than the folder
        self._looked_at_processes = now
        with self._work:
            may_take = self._pinned is None and not self._told_late
            if may_take and self._settling.is_overdue(now):
                # A program that saves many times a second removes files while we look who has them
                # open.
                hold_on_to(self._folder, view, self._settling.changed_in(view), self._held[0])
        writing = processes.open_for_writing(self._family(), self._folder)
        processes.reap_orphans(self._leader())
        # Asked after both looks: a file that is not open any more may be torn by its writer's end.
        if self._has_ended():
            return
        is_pending = self._settling.is_pending
        found = self._databases.replace(view, writing, time.monotonic(), hurry=is_pending)
        with self._work:
            # One at a time; what changes meanwhile comes next.
            if self._pinned is not None or self._told_late or self._is_held.is_set():
                self._settling.watch_only(
                    found.view, found.writing, time.monotonic(), copies=found.copies
                )
            else:
                self._take(found)
        self._report_incomplete(time.monotonic())

    def _take(self, found: Replaced) -> None:
        """Pin what has settled, if anything has; the saver waits for it."""
        before = self._settling.taken
        snapshot = self._settling.observe(
            found.view,
            found.writing,
            time.monotonic(),
            saved=self._told,
            copies=found.copies,
            held_back=found.held_back,
        )
        if snapshot is None:
            return
        if not snapshot.changed and self._save_events.step == self._step_taken:
            self._told = False  # the same step was told of once more
            return
        place = self._pins / "current"
        try:
            held = _as_pinned(snapshot, self._folder, place, self._held)
            self._pinned = _Pinned(held, place, before, self._save_events.step)
            self._step_taken, self._told = self._save_events.step, False
            self._tell("pin", "")
        except ChangedError:
            # A program that saves many times a second overtakes most tries.
            self._settling.forget_take(before, at_once=True)
        except OSError as exc:
            # A full disk: the next look tries again. Until one can, the looks in between, which
            # find that nothing has settled again yet, are no news.
            self._settling.forget_take(before)
            self._tell("pin", f"the newest checkpoint cannot be held on to: {exc}")
        shutil.rmtree(self._held[0], ignore_errors=True)
        self._work.notify_all()

    def _report_incomplete(self, now: float) -> None:
        """Name the files that cannot be saved, with the reason and a remedy."""
        wholeness = self._settling.wholeness
        for reason in wholeness.newly_tolerated():
            logger.info("taken as it is: %s", reason)
        self._tell("incomplete", _listed(wholeness.lasting_problems(now), "; not saved"))
        databases = [text for _, text in sorted(self._databases.problems.items())]
        self._tell("database", _listed(databases, ""))
        never_closed = _listed(self._settling.never_closed(now), "")
        self._tell("open", f"{never_closed}{NEVER_CLOSED}" if never_closed else "")

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
            except Exception as exc:  # whatever it is, the next save must still come
                logger.exception("the checkpoint cannot be saved")
                self._tell("save", f"the newest checkpoint cannot be saved: {exc!r}")
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
                    self._committer.commit(
                        pinned.snapshot, pinned.place, told=pinned.told, superseded=self._superseded
                    )
                    self._schedule.note_commit(time.monotonic(), cost=self._save_events.cost)
                    if remove_old and not self._stop.is_set():
                        self._committer.remove_old()
            except (ChangedError, SupersededError):
                raise
            except FencedError as exc:
                logger.warning("the checkpoint was refused: %s", exc)
                self._mailbox.end(
                    StopRequest(
                        cause=StopCause.FENCED, reason=str(exc), detected=datetime.now(timezone.utc)
                    )
                )
                return False
            except (RunctlError, ClientError, BotoCoreError, OSError) as exc:
                self._tell("save", f"the newest checkpoint could not be saved yet: {exc}")
                if time.monotonic() + wait > until:
                    return False
                if self._superseded.wait(wait):
                    raise SupersededError("a newer snapshot is uploaded instead") from exc
                wait = min(2 * wait, MAX_WAIT)
            else:
                return True

    def _tell_no_look(self, problem: Exception) -> None:
        self._tell("look", f"the checkpoint folder cannot be looked at: {problem}")

    def _tell(self, about: str, problem: str) -> None:
        """Say a problem in status, and log it when it is a new one; an empty one clears it."""
        if (
            self._progress.warn(shorten_reason(problem, MAX_WARNING_LENGTH), about=about)
            and problem
        ):
            logger.warning("%s", problem)


def _as_pinned(
    snapshot: Snapshot, folder: Path, place: Path, held: Sequence[Path] = ()
) -> Snapshot:
    contents: dict[tuple[int, int], bytes] = {}
    view = pin(
        folder,
        snapshot.view,
        place,
        recently_modified=snapshot.recently_modified,
        held=held,
        contents=contents,
    )
    if any(path in snapshot.view for path in snapshot.changed) and not view.keys() & set(
        snapshot.changed
    ):
        raise ChangedError(f"{snapshot.changed[0]} was removed while it was looked at")
    return replace(snapshot, view=view, contents=contents)


def _listed(items: Sequence[str], after: str) -> str:
    """Return the first few items and the number of the others."""
    text = ", ".join(f"{item}{after}" for item in items[:MAX_ITEMS_SHOWN])
    more = len(items) - MAX_ITEMS_SHOWN
    return f"{text} and {more} more" if more > 0 else text
