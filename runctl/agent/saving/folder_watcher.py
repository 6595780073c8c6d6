"""The folder watcher: scans the checkpoint folder, and pins what has settled in it."""

import logging
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Program
from runctl.agent.saving.pinned import Pinned, pin_snapshot
from runctl.agent.saving.problems import show_folder_problems, show_problem
from runctl.agent.saving.save_events import SaveEvents
from runctl.checkpoint.databases import Databases, Replaced
from runctl.checkpoint.inspector import Inspector
from runctl.checkpoint.joining import own_files
from runctl.checkpoint.layouts import Scope
from runctl.checkpoint.pinning import link_early, pin
from runctl.checkpoint.settling import ChangedError, FolderState, Settling, Snapshot, scan_folder
from runctl.checkpoint.wholeness import Wholeness
from runctl.model.errors import CheckpointError

SCAN_EVERY = timedelta(milliseconds=200)
SCAN_EVERY_WHILE_DRAINING = timedelta(milliseconds=100)
IDLE = timedelta(seconds=1)
# Scanning a large folder must not keep a core busy: it may take this part of the time.
SCAN_SHARE = 10

logger = logging.getLogger(__name__)


class FolderWatcher:
    """Pins a snapshot whenever the folder has settled with something new in it.

    One snapshot is pinned at a time. The saver waits for it with `next_pinned`, and returns it with
    `release`; until then, changes to the folder are noted but not pinned.

    `_lock` guards `_settling`, `_pinned`, `_taken_before` and `_is_over`. Three threads use these:
    the watcher's own, the saver's (`next_pinned`, `release`) and the thread that ends the attempt
    (`judge_final`). All other state belongs to the watcher's thread, and after `judge_final` has
    joined it, to the thread that ends the attempt.
    """

    def __init__(
        self,
        *,
        folder: Path,
        pins: Path,
        spare: Path,
        save_events: SaveEvents,
        progress: Progress,
        scope: Scope = Scope.WHOLE,
    ) -> None:
        """`scope` says whether the folder has only one node's files of a checkpoint."""
        self._folder = folder
        self._pins = pins
        self._spare = spare
        self._save_events = save_events
        self._progress = progress
        inspector = Inspector(folder)
        self._scope, self._given = scope, scan_folder(folder)
        self._counted: FolderState = {}
        self._settling = Settling(
            self._given, wholeness=Wholeness(inspector, scope=scope, given=self._given)
        )
        self._databases = Databases(folder, pins / "databases", inspector)
        self._held = (pins / "seen", self._databases.place)
        self._has_new_save = self._has_save_during_scan = False
        self._step_taken: int | None = None
        self._interval = SCAN_EVERY
        self._scanned_processes_at = float("-inf")
        self._alive_at: float | None = None
        self._stop = threading.Event()
        self._is_held = threading.Event()
        self._lock = threading.Condition()
        self._pinned: Pinned | None = None
        self._taken_before: FolderState = {}
        self._is_over = False
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint folder."""
        return self._folder

    @property
    def taken(self) -> FolderState:
        """The folder as the last snapshot holds it, at first as the watcher found it."""
        return self._settling.taken

    @property
    def incomplete_reasons(self) -> list[str]:
        """Why saves were found to be incomplete, as far as that is known."""
        return list(self._settling.wholeness.reasons)

    def start(self, program: Program) -> None:
        """Begin to watch what a program writes; it must have been started after this watcher."""
        self._thread = threading.Thread(
            target=self._watch, args=(program,), name="folder-watcher", daemon=True
        )
        self._thread.start()

    def hurry(self) -> None:
        """Scan more often: the trainer is about to end, and its last moment counts."""
        self._interval = SCAN_EVERY_WHILE_DRAINING

    def hold(self) -> None:
        """Pin nothing more until the end: what is closed now may be torn by its writer's end."""
        self._is_held.set()

    def stop(self) -> None:
        """Stop at once; a snapshot that is pinned from now on is not saved."""
        self._stop.set()
        with self._lock:
            self._is_over = True
            self._lock.notify_all()

    def join(self) -> None:
        """Wait for the end of the watcher's thread, if it was started."""
        if self._thread is not None:
            self._thread.join()

    def next_pinned(self) -> Pinned | None:
        """Wait for a pinned snapshot; return None once there will be no more."""
        with self._lock:
            while self._pinned is None and not self._is_over:
                self._lock.wait()
            return self._pinned

    def release(self, pinned: Pinned, *, has_changed: bool) -> None:
        """Remove the pins of a snapshot, so that the next one may be pinned.

        `has_changed` says that its files changed while they were read: they have to settle again.
        """
        if has_changed:
            with self._lock:
                self._settling.forget_snapshot(self._taken_before)
        shutil.rmtree(pinned.place, ignore_errors=True)
        with self._lock:
            self._pinned = None

    def judge_final(
        self, *, torn: frozenset[str], abrupt: bool
    ) -> tuple[FolderState | None, Snapshot | None]:
        """Stop watching, and judge the folder after the end of every process that wrote to it.

        `torn` are the files that were open for writing when their writer was killed, `abrupt` says
        that a writer died without running its own exit. Returns the state of the folder, None if it
        cannot be read, and what is whole and new in it, if anything.
        """
        self._stop.set()
        self.join()
        self._save_events.read()
        folder_state = self.scan()
        snapshot = None
        with self._lock:
            if folder_state is not None:
                folder_state, torn = self._databases.at_rest(folder_state, torn)
                before, step = self._settling.taken, self._save_events.step
                snapshot = self._settling.final(
                    folder_state,
                    time.monotonic(),
                    torn=torn,
                    abrupt=abrupt,
                    saved=step != self._step_taken,
                    is_over=self._interval == SCAN_EVERY,
                    databases=self._databases.paths,
                    alive_at=self._alive_at,
                )
                if snapshot and snapshot.lacks_save(step, folder_state, before):
                    self._settling.forget_snapshot(before)
                    snapshot = None
                self._show_folder_problems()
                self._count_own_files(folder_state)
            # Only now: what the last scan has pinned is still to be saved.
            self._is_over = True
            self._lock.notify_all()
        return folder_state, snapshot

    def pin_final(self, snapshot: Snapshot) -> Pinned:
        """Pin the snapshot that `judge_final` returned.

        On a full disk the pins, in memory then, point to where the files lie. Raises ChangedError
        or OSError if even that fails.
        """
        place = self._pins / "final"
        try:
            held = pin_snapshot(snapshot, self._folder, place)
        except OSError as exc:
            logger.warning("the last checkpoint is read in place: %s", exc)
            place = self._spare
            held = pin_snapshot(snapshot, self._folder, place)
        return Pinned(held, place, self._save_events.step)

    def unfinished_files(self, folder_state: FolderState) -> FolderState:
        """Return the files that differ from the last snapshot: what an unfinished save left."""
        taken = self._settling.taken
        return {
            path: file_state
            for path, file_state in folder_state.items()
            if file_state.kind == "file" and taken.get(path) != file_state
        }

    def pin_unfinished(self, files: FolderState) -> Pinned:
        """Pin unfinished files. Raises ChangedError or OSError if that fails."""
        place = self._pins / "partial"
        held = pin(self._folder, files, place)
        return Pinned(Snapshot(held, tuple(held)), place, self._save_events.step)

    def own(self, folder_state: FolderState) -> FolderState:
        """Return what this node stores of the folder: on a later one, what its ranks have written.

        On the first node, and on a single one, that is everything.
        """
        if self._scope is not Scope.OTHER_NODE:
            return folder_state
        return own_files(folder_state, self._given)

    def scan(self) -> FolderState | None:
        """Scan the folder; if that fails, show the problem in the status and return None."""
        try:
            return scan_folder(self._folder)
        except OSError as exc:
            self._show_scan_problem(exc)
            return None

    def _watch(self, program: Program) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._scan_and_pin(program)
                self._show("", about="scan")
            except Exception as exc:  # noqa: BLE001 - whatever it is, the next scan must still come
                self._show_scan_problem(exc)
            took = time.monotonic() - began
            self._stop.wait(max(self._interval.total_seconds(), SCAN_SHARE * took))

    def _scan_and_pin(self, program: Program) -> None:
        # Before the scan: a save that the helper has reported by now is in the folder. One that it
        # reports during the scan may have been scanned or not, and the step would not be that of
        # the files.
        self._has_new_save = (
            self._save_events.read() or self._has_save_during_scan or self._has_new_save
        )
        if not self._folder.is_dir():
            raise CheckpointError(
                f"{self._folder} is not a folder any more; the last checkpoint remains"
            )
        folder_state = scan_folder(self._folder, self._settling.seen)
        self._count_own_files(folder_state)
        self._has_save_during_scan = self._save_events.read()
        now = time.monotonic()
        is_idle = (
            self._interval == SCAN_EVERY
            and not self._has_new_save
            and self._settling.is_idle(folder_state)
        )
        if is_idle and now - self._scanned_processes_at < IDLE.total_seconds():
            return  # scanning all processes costs more than scanning the folder
        self._scanned_processes_at = now
        with self._lock:
            may_take = self._pinned is None and not self._has_save_during_scan
            if may_take and self._settling.is_overdue(now):
                # A program that saves many times a second removes files while the open files of its
                # processes are listed.
                changed = self._settling.changed_in(folder_state)
                link_early(self._folder, folder_state, changed, self._held[0])
        writing = program.writers()
        # Checked after both scans: a file that is closed may be torn by its writer's end.
        checked_at = time.monotonic()
        if program.is_exiting():
            return
        self._alive_at = checked_at
        is_pending = self._settling.is_pending
        found = self._databases.replace(folder_state, writing, time.monotonic(), hurry=is_pending)
        with self._lock:
            # One at a time; what changes meanwhile comes next.
            if self._pinned is not None or self._has_save_during_scan or self._is_held.is_set():
                self._settling.watch_only(
                    found.view, found.writing, time.monotonic(), copies=found.copies
                )
            else:
                self._take(found)
        self._show_folder_problems()

    def _count_own_files(self, folder_state: FolderState) -> None:
        """Report to the node of rank 0 whether it has to wait for files of this one."""
        if self._scope is not Scope.OTHER_NODE or folder_state == self._counted:
            return
        self._counted = folder_state
        files = sum(state.kind != "dir" for state in self.own(folder_state).values())
        self._progress.report_gang(files=files)

    def _take(self, found: Replaced) -> None:
        """Pin what has settled, if anything has; the saver waits for it."""
        before = self._settling.taken
        snapshot = self._settling.observe(
            found.view,
            found.writing,
            time.monotonic(),
            saved=self._has_new_save,
            copies=found.copies,
            held_back=found.held_back,
        )
        if snapshot is None:
            return
        if not snapshot.changed and self._save_events.step == self._step_taken:
            self._has_new_save = False  # the same step was reported once more
            return
        if snapshot.lacks_save(self._save_events.step, found.view, before):
            # The program writes the step that it has reported once more. What is left would be
            # called that step without its files.
            self._settling.forget_snapshot(before, at_once=True)
            return
        place = self._pins / "current"
        try:
            held = pin_snapshot(snapshot, self._folder, place, self._held)
            self._pinned = Pinned(held, place, self._save_events.step)
            self._taken_before = before
            self._step_taken, self._has_new_save = self._save_events.step, False
            self._show("", about="pin")
        except ChangedError:
            # A program that saves many times a second overtakes most tries.
            self._settling.forget_snapshot(before, at_once=True)
        except OSError as exc:
            # A full disk: the next scan tries again. Until a try succeeds, the scans in between,
            # which find that nothing has settled again yet, do not clear the problem.
            self._settling.forget_snapshot(before)
            self._show(f"the newest checkpoint cannot be pinned: {exc}", about="pin")
        shutil.rmtree(self._held[0], ignore_errors=True)
        self._lock.notify_all()

    def _show_folder_problems(self) -> None:
        show_folder_problems(self._progress, self._settling, self._databases, now=time.monotonic())

    def _show_scan_problem(self, problem: Exception) -> None:
        self._show(f"the checkpoint folder cannot be scanned: {problem}", about="scan")

    def _show(self, problem: str, *, about: str) -> None:
        show_problem(self._progress, problem, about=about)
