"""A folder watcher with a checkpoint saver, without a machine around them."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.ports import Contract, Program
from runctl.agent.saving.folder_watcher import FolderWatcher
from runctl.agent.saving.gang_files import PartMissingError
from runctl.agent.saving.save_events import SaveEvents
from runctl.agent.saving.saver import CheckpointSaver
from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.agent.signals.mailbox import Mailbox
from runctl.checkpoint.layouts import Scope
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.settling import FileState, Snapshot
from runctl.policy.interval import Uptime
from tests.agent.recording_runtime import RecordingProgram, RecordingRuntime


class Committer:
    """Reads the pinned files, as an upload would; a commit ends only while `gate` is set."""

    def __init__(self) -> None:
        self.committed: list[dict[str, bytes]] = []
        self.partial: dict[str, FileState] = {}
        self.begun, self.done = threading.Event(), threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.missing = 0  # how often a part of another node is missing

    def commit(self, snapshot: Snapshot, place: Path, **_: Any) -> None:
        self.begun.set()
        if self.missing:
            self.missing -= 1
            raise PartMissingError("node 1's part is missing")
        assert self.gate.wait(60)
        files = {path: state for path, state in snapshot.view.items() if state.kind == "file"}
        self.committed.append(
            {
                path: snapshot.contents.get(state.inode) or (place / pin_name(state)).read_bytes()
                for path, state in files.items()
            }
        )
        self.done.set()

    def save_partial(self, snapshot: Snapshot, _place: Path, **_: Any) -> None:
        self.partial.update(snapshot.view)

    def expected_time(self, _size: int) -> timedelta:
        return timedelta(0)

    def remove_old(self) -> None:
        """Nothing is old here."""


def idle_program(tmp_path: Path) -> RecordingProgram:
    """A program that runs and writes nothing: the test writes to the folder itself."""
    return RecordingRuntime().start(
        Contract(
            command=("true",),
            environment={},
            working_folder=tmp_path,
            checkpoint=tmp_path / "checkpoint",
            output=tmp_path / "out",
            errors=tmp_path / "err",
            save_request=tmp_path / "request",
            grace=timedelta(0),
        )
    )


def start_saver(
    tmp_path: Path,
    committer: Committer,
    pins: Path,
    progress: Progress,
    *,
    program: Program | None = None,
    scope: Scope = Scope.WHOLE,
    restored: Path | None = None,
) -> CheckpointSaver:
    """Watch a new folder, or one with what was `restored`, and save what settles in it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir() if restored is None else restored.rename(folder)
    save_events = SaveEvents(tmp_path / "saved.jsonl")
    watcher = FolderWatcher(
        folder=folder,
        pins=pins,
        spare=tmp_path / "spare",
        save_events=save_events,
        progress=progress,
        scope=scope,
    )
    saver = CheckpointSaver(
        committer,  # type: ignore[arg-type]
        watcher,
        save_events=save_events,
        schedule=CheckpointSchedule(
            fixed=timedelta(minutes=1), seen=Uptime(), began=time.monotonic()
        ),
        progress=progress,
        mailbox=Mailbox(),
    )
    watcher.start(program or idle_program(tmp_path))
    saver.start()
    return saver
