"""The monitor of a training process that runctl did not start."""

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.open_files import OpenFileFinder
from runctl.agent.monitor.find_trainer import Process, is_alive
from runctl.agent.monitor.plain_store import PlainStore
from runctl.agent.runtime.stopping import send_once, targets_of
from runctl.checkpoint.databases import Databases
from runctl.checkpoint.inspector import Inspector
from runctl.checkpoint.pinning import pin, read_pinned
from runctl.checkpoint.settling import ChangedError, FolderState, Settling, Snapshot, scan_folder
from runctl.checkpoint.stated_steps import StepJudge
from runctl.checkpoint.wholeness import Wholeness
from runctl.model.errors import RunctlError

SCAN_EVERY = timedelta(milliseconds=500)
SCAN_EVERY_AFTER_A_NOTICE = timedelta(milliseconds=100)
ASK_EVERY = timedelta(seconds=1)
RETRY_AFTER = timedelta(seconds=5)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A process and its folder. `ends_it` says that the process gets SIGTERM after a notice."""

    process: Process
    folder: Path
    ends_it: bool


class Monitor:
    """Saves the folder whenever it has settled, until the process has ended."""

    def __init__(
        self,
        watched: Watched,
        store: PlainStore,
        metadata: Metadata,
        *,
        pins: Path,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._watched = watched
        self._store = store
        self._metadata = metadata
        self._pins = pins
        self._pause = pause
        # Existing files count as new: nothing else has saved them.
        self._judge = StepJudge()
        inspector = Inspector(watched.folder)
        self._settling = Settling({}, wholeness=Wholeness(inspector))
        self._open_files = OpenFileFinder(watched.folder)
        self._databases = Databases(watched.folder, pins / "databases", inspector)
        self._step: int | None = None
        self._save_number = 0
        self._saved: FolderState = {}
        self._checked_at = self._failed_at = float("-inf")
        self._noticed = False
        self._recommended: str | None = None
        self._catches = False

    def watch(self) -> None:
        """Watch until the process has ended and what it left is saved."""
        while is_alive(self._watched.process):
            self.check_metadata()
            self.save_settled()
            every = SCAN_EVERY_AFTER_A_NOTICE if self._noticed else SCAN_EVERY
            self._pause(every.total_seconds())
        logger.info("the process %d has ended", self._watched.process.pid)
        self.save_last()

    def check_metadata(self) -> None:
        """Read the notice from the instance metadata, at most once a second."""
        if self._noticed or time.monotonic() - self._checked_at < ASK_EVERY.total_seconds():
            return
        self._checked_at = time.monotonic()
        try:
            deadline = self._metadata.notice()
            recommended = self._metadata.rebalance_recommended_at()
        except MetadataError as exc:
            logger.warning("%s", exc)
            return
        if recommended is not None and recommended != self._recommended:
            self._recommended = recommended
            logger.info("EC2 recommends rebalancing; saving continues as before")
        if deadline is None:
            return
        self._noticed = True
        logger.info("EC2 takes the instance at %s", deadline.isoformat())
        if self._watched.ends_it:
            self._end_process()

    def _end_process(self) -> None:
        pid = self._watched.process.pid
        family, targets = targets_of(pid)
        chosen = [info for info in family if info.pid in targets.now]
        self._catches = any(info.catches(signal.SIGTERM) for info in chosen)
        logger.info("SIGTERM to %s", ", ".join(map(str, chosen)))
        send_once(chosen, family)

    def save_settled(self) -> None:
        """Save what has settled since the last scan."""
        pid = self._watched.process.pid
        if time.monotonic() - self._failed_at < RETRY_AFTER.total_seconds():
            return
        folder_state = self._scan()
        if folder_state is None:
            return
        family = [pid, *processes.descendants(pid)]
        writing = self._open_files.files(family)
        before = self._settling.taken
        is_pending = self._settling.is_pending
        found = self._databases.replace(folder_state, writing, time.monotonic(), hurry=is_pending)
        snapshot = self._settling.observe(
            found.view,
            found.writing,
            time.monotonic(),
            copies=found.copies,
            held_back=found.held_back,
        )
        if snapshot is not None and not self._save(snapshot):
            self._settling.forget_snapshot(before)

    def _scan(self) -> FolderState | None:
        """Scan the folder; return None if it cannot be read, and try again later."""
        try:
            return scan_folder(self._watched.folder)
        except OSError as exc:
            logger.warning("the folder cannot be read: %s", exc)
            self._failed_at = time.monotonic()
            return None

    def save_last(self) -> None:
        """Save what the process left, if it handled SIGTERM or the folder had settled."""
        scanned = self._scan()
        if scanned is None:
            return
        folder_state, torn = self._databases.at_rest(scanned, frozenset())
        # The exit status of a process that is not our child is unknown.
        snapshot = self._settling.final(
            folder_state,
            time.monotonic(),
            torn=torn,
            abrupt=not self._catches,
            databases=self._databases.paths,
        )
        if snapshot is None:
            logger.info("no newer save is whole")
            return
        while not self._save(snapshot):
            self._pause(RETRY_AFTER.total_seconds())

    def _save(self, snapshot: Snapshot) -> bool:
        now = datetime.now(timezone.utc)
        place = self._pins / "current"
        try:
            databases = [self._databases.place]
            held = pin(
                self._watched.folder,
                snapshot.view,
                place,
                recently_modified=snapshot.recently_modified,
                held=databases,
            )
            read = partial(read_pinned, held, {}, place)
            judged = self._judge.judge(
                held, snapshot.changed, held=self._saved, current=self._step, read=read
            )
            pinned = replace(snapshot, view=held)
            number = self._save_number + 1
            uri = self._store.save(pinned, place, step=judged.step, save=number, now=now)
        except ChangedError as exc:
            logger.info("the folder changed while it was saved; waiting again: %s", exc)
            return False
        except (RunctlError, OSError) as exc:
            logger.warning("the checkpoint could not be saved yet: %s", exc)
            self._failed_at = time.monotonic()
            return False
        self._step, self._save_number, self._saved = judged.step, number, held
        logger.info("saved %s", uri)
        return True
