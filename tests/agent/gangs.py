"""The committers of the nodes of a gang, without machines around them."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.gang_files import GangFiles
from runctl.agent.saving.node_committer import NodeCommitter
from runctl.agent.saving.save_events import SaveEvents
from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.folder_state import FolderState, scan_folder
from runctl.checkpoint.joining import own_files
from runctl.checkpoint.pinning import pin
from runctl.checkpoint.restore import Fetched, Restorer
from runctl.checkpoint.settling import Snapshot
from runctl.model.gang import NodeEnd
from runctl.model.node import Node, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from tests.agent.machine import Cloud, now

SAVE = Path(__file__).parents[1] / "checkpoint/torch_save"


def write_torch_save(folder: Path, step: int, *ranks: int) -> Path:
    """Write what some ranks of four write in a save of torch; rank 0 describes all of them."""
    place = folder / f"step-{step:09d}"
    place.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        shutil.copy(SAVE / f"__{rank}_0.distcp", place)
    if 0 in ranks:
        shutil.copy(SAVE / ".metadata", place)
    return place


class GangNode:
    """A node: its folder and its committer. Saves are made by hand, as the saver makes them."""

    def __init__(self, gang: Gang, rank: int) -> None:
        self.gang, self.rank = gang, rank
        self.place = gang.place / f"node-{rank}"
        self.folder = self.place / "checkpoint"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress()
        self.stage = NodeStage.RUNNING
        self.superseded = threading.Event()
        self.begin(None)

    def begin(self, restored: Fetched | None) -> None:
        """Begin an attempt, from what was restored."""
        gang, cloud = self.gang, self.gang.cloud
        self.store = CheckpointStore(
            cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id, rank=self.rank
        )
        self.given = self.taken = scan_folder(self.folder)
        common: dict[str, Any] = {
            "run_id": cloud.run_id,
            "attempt": gang.attempt,
            "progress": self.progress,
            "is_fenced": lambda: False,
            "run": cloud.run(),
        }
        self.committer: Committer | NodeCommitter
        if self.rank:
            self.committer = NodeCommitter(self.store, rank=self.rank, given=self.given, **common)
        else:
            self.committer = Committer(
                cloud.ledger,
                self.store,
                keep_last=gang.keep_last,
                may_be_interrupted=False,
                saves=SaveEvents(self.place / "saved.jsonl"),
                gang=GangFiles(
                    self.store,
                    attempt=gang.attempt,
                    peers=gang.peers,
                    lost=lambda: frozenset(gang.lost),
                ),
                **common,
            )
        if restored is not None:
            self.committer.begin_from(restored, self.given)

    def count_files(self) -> None:
        """Report how many files this node has written."""
        own = own_files(scan_folder(self.folder), self.given)
        self.progress.report_gang(files=sum(state.kind != "dir" for state in own.values()))

    def save(self, step: int | None = None, *, seconds: float = 60) -> None:
        """Commit what is in the folder."""
        self.count_files()
        view = scan_folder(self.folder)
        changed = {path for path in (*view, *self.taken) if view.get(path) != self.taken.get(path)}
        pins = self.place / "pins"
        pinned = pin(self.folder, view, pins)
        self.committer.commit(
            Snapshot(pinned, tuple(sorted(changed))),
            pins,
            reported_step=step,
            superseded=self.superseded,
            until=time.monotonic() + seconds,
        )
        shutil.rmtree(pins)
        self.taken: FolderState = view

    def end(self) -> None:
        """Report that the program has ended and everything is stored."""
        outcome = Outcome(kind=OutcomeKind.COMPLETED, reason="", exit_code=0)
        self.progress.report_gang(ended=NodeEnd(at=now(), outcome=outcome, is_stored=True))

    def restore(self) -> Fetched:
        """Restore the run's newest checkpoint, as every node does."""
        newest = self.gang.cloud.run().newest
        assert newest is not None
        restorer = Restorer(self.store, self.place / "incoming")
        fetched = restorer.fetch(newest, reuse=self.folder)
        self.fetched_bytes = restorer._files.fetched_bytes
        restorer.put_in_place(fetched.manifest, self.folder)
        return fetched

    def as_node(self) -> Node:
        """Return what the ledger has of it."""
        return Node(
            run_id=self.gang.cloud.run_id,
            attempt=self.gang.attempt,
            rank=self.rank,
            stage=self.stage,
            heartbeat_at=now(),
            progress=self.progress.snapshot(),
        )


class Gang:
    """The nodes of an attempt."""

    def __init__(self, cloud: Cloud, place: Path, size: int, *, keep_last: int = 3) -> None:
        self.cloud, self.place, self.keep_last = cloud, place, keep_last
        self.attempt = 1
        self.lost: set[int] = set()
        self.heard = True  # whether the ledger has what the nodes report
        cloud.create_run()
        cloud.open_attempt()
        cloud.give_token()
        self.nodes = [GangNode(self, rank) for rank in range(size)]

    def peers(self) -> list[Node]:
        """Return the other nodes, as that of rank 0 reads them."""
        nodes = [node.as_node() for node in self.nodes[1:]]
        return nodes if self.heard else [replace(node, heartbeat_at=None) for node in nodes]

    def repair(self) -> None:
        """Begin the next attempt: every node restores the newest checkpoint."""
        self.attempt += 1
        self.cloud.open_attempt(self.attempt)
        self.cloud.give_token(self.attempt)
        self.lost.clear()
        for node in self.nodes:
            node.progress = Progress()
            node.begin(node.restore())

    def files(self) -> set[str]:
        """Return the files of the run's newest checkpoint."""
        newest = self.cloud.run().newest
        assert newest is not None
        manifest = self.nodes[0].store.get_manifest(newest)
        return {entry.path for entry in manifest.entries if entry.kind != "dir"}
