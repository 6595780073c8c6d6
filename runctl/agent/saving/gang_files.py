"""The files of the other nodes of a gang, for the node of rank 0, which commits for all."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.joining import NodeFiles, join, replaced_saves, states_of, waits_for
from runctl.checkpoint.layouts import Flaw, flaws_between
from runctl.checkpoint.retention import NODE_MANIFESTS_KEPT
from runctl.checkpoint.save_groups import is_incomplete, save_of
from runctl.checkpoint.settling import Snapshot
from runctl.checkpoint.stated_steps import Read
from runctl.checkpoint.torch_records import METADATA, named_records
from runctl.checkpoint.upload import SupersededError
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.model.identity import node_of_manifest
from runctl.model.node import Node, NodeStage

MAX_WAIT = 60.0
POLL_SECONDS = 0.5
SLOW_AFTER = 3.0
# Left of a notice for the commit itself.
RESERVE = timedelta(seconds=3)
# Ranks save at the same step, but not in the same moment.
APART = timedelta(seconds=2)
TEXT_BYTES = 64 * 1024
BLOCK_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


class PartMissingError(CheckpointError):
    """A save is not whole, because a node has not stored its files of it."""


@dataclass(frozen=True)
class Joined:
    """The files of all nodes, and the ranks of those that have added some."""

    entries: tuple[Entry, ...]
    ranks: tuple[int, ...]

    def without(self, saves: AbstractSet[str]) -> "Joined":
        """Return the files that do not belong to some saves, given by name."""
        kept = (entry for entry in self.entries if not is_incomplete(saves, entry.path))
        return Joined(tuple(kept), self.ranks)


@dataclass(frozen=True, kw_only=True)
class OwnSave:
    """A save as the node of rank 0 has it: its entries, which are stored, and their contents.

    `before` are the entries of the checkpoint before it.
    """

    snapshot: Snapshot
    entries: Sequence[Entry]
    step: int | None
    read: Read
    before: Sequence[Entry] = ()


class GangFiles:
    """Joins the saves of this node with those of the others; not safe to share between threads.

    `peers` returns the other nodes that train, as the ledger has them, and `lost` the ranks of
    those that are known to be lost.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        attempt: int,
        peers: Callable[[], Sequence[Node]],
        lost: Callable[[], AbstractSet[int]],
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._peers = peers
        self._lost = lost
        self._manifests: dict[str, Manifest] = {}
        self._without_files: set[int] = set()
        self._left_out: frozenset[str] = frozenset()
        self._named: dict[tuple[object, ...], frozenset[str]] = {}

    def join(
        self,
        own: OwnSave,
        *,
        find_gone: Callable[[Iterable[Entry]], Sequence[str]],
        superseded: threading.Event,
        until: float,
    ) -> Joined:
        """Return the whole save, as soon as the other nodes have stored their files of it.

        `find_gone` returns the paths whose parts are not stored any more. `until` is the monotonic
        instant at which it is too late for the last save, and infinite for others. Raises
        PartMissingError, which names the node, if the save does not become whole, and
        SupersededError if a newer one is to be committed.
        """
        taken_at = datetime.now(timezone.utc)
        # The last save is tried only once; any other is tried again with later files.
        is_last = until < float("inf")
        began, said = time.monotonic(), ""
        give_up = until - RESERVE.total_seconds() if is_last else began + MAX_WAIT
        while True:
            nodes = self._observe(taken_at)
            joined = self._join(own, nodes)
            flaws = self._flaws(own, joined)
            left_out = self._never_whole(own, flaws)
            joined = joined.without(left_out)
            flaws = [flaw for flaw in flaws if not is_incomplete(left_out, flaw.path)]
            problem, is_certain = self._problem(own, flaws, nodes)
            if not problem:
                added = set(joined.entries) - set(own.entries)
                if gone := find_gone(added):
                    problem = f"a part of {gone[0]} is not stored any more"
                    is_certain = True
            is_late = all(node.is_over for node in nodes) or time.monotonic() >= give_up
            if not problem or (is_late and not is_certain):
                self._without_files |= {
                    node.rank for node in nodes if node.has_answered and not node.files
                }
                self._left_out = left_out
                return joined
            if is_late:
                raise PartMissingError(problem)
            if problem != said and time.monotonic() - began >= SLOW_AFTER:
                said = problem
                logger.info("the save is not whole yet: %s", problem)
            if superseded.wait(POLL_SECONDS):
                raise SupersededError("a newer snapshot is uploaded instead")

    def read(self, key: str) -> Manifest:
        """Return a manifest; those of nodes are read once."""
        if key not in self._manifests:
            manifest = self._store.get_manifest(key)
            if node_of_manifest(key) is None:
                return manifest
            self._manifests[key] = manifest
        return self._manifests[key]

    def _observe(self, taken_at: datetime) -> list[NodeFiles]:
        """Return what is known of the other nodes' files, by their ranks."""
        keys: dict[int, list[str]] = {}
        for key in self._store.node_manifest_keys():
            place = node_of_manifest(key)
            if place is not None and place[0] == self._attempt:
                keys.setdefault(place[1], []).append(key)
        wanted = {key for listed in keys.values() for key in listed[-NODE_MANIFESTS_KEPT:]}
        self._manifests = {key: known for key, known in self._manifests.items() if key in wanted}
        lost = self._lost()
        found = []
        for node in sorted(self._peers(), key=lambda peer: peer.rank):
            report = node.progress.gang
            files = 0 if report is None else report.files
            ended = None if report is None else report.ended
            answered_at = node.heartbeat_at
            has_answered = answered_at is not None and answered_at >= taken_at + APART
            is_stored = ended is not None and ended.is_stored
            found.append(
                NodeFiles(
                    rank=node.rank,
                    files=files,
                    manifests=self._read_newest(keys.get(node.rank, [])),
                    is_stored=is_stored,
                    is_lost=node.rank in lost or node.stage is NodeStage.GONE,
                    has_answered=bool(files) or has_answered or node.rank in self._without_files,
                )
            )
        return found

    def _read_newest(self, keys: Sequence[str]) -> tuple[Manifest, ...]:
        found = []
        for key in reversed(keys[-NODE_MANIFESTS_KEPT:]):
            try:
                found.append(self.read(key))
            except DamagedCheckpointError as exc:
                logger.warning("what a node has stored cannot be read: %s", exc)
        return tuple(found)

    def _join(self, own: OwnSave, nodes: Sequence[NodeFiles]) -> Joined:
        chosen = {node.rank: node.of_step(own.step) for node in nodes}
        others = {rank: found for rank, found in chosen.items() if found is not None}
        entries = join(own.entries, [manifest.entries for manifest in others.values()])
        sources = [
            *(manifest.entries for node in nodes for manifest in node.manifests),
            own.before,
        ]
        found = self._missing_records(own, entries, sources)
        entries = tuple(sorted((*entries, *found), key=lambda entry: entry.path))
        return Joined(entries, tuple(others))

    def _missing_records(
        self, own: OwnSave, entries: Sequence[Entry], sources: Iterable[Sequence[Entry]]
    ) -> list[Entry]:
        """Return records that a save of torch names and a node has stored earlier."""
        paths = {entry.path for entry in entries}
        wanted = set()
        for entry in own.entries:
            folder, slash, name = entry.path.rpartition("/")
            if entry.kind == "file" and METADATA.match(name):
                names = self._records(own, entry)
                wanted |= {f"{folder}{slash}{record}" for record in names} - paths
        found: dict[str, Entry] = {}
        for source in sources if wanted else ():
            for entry in source:
                if entry.path in wanted and entry.kind == "file":
                    found.setdefault(entry.path, entry)
        return list(found.values())

    def _flaws(self, own: OwnSave, joined: Joined) -> list[Flaw]:
        """Return what is missing in what is new, and in what was left out so far."""
        fresh = {path.rpartition("/")[0] for path in own.snapshot.changed}
        entries = {entry.path: entry for entry in own.entries}

        def text(path: str) -> str:
            return own.read(path, 0, TEXT_BYTES).decode(errors="replace") if path in entries else ""

        def records(path: str) -> frozenset[str]:
            return self._records(own, entries[path]) if path in entries else frozenset()

        folders = states_of(joined.entries)
        fresh |= {folder for folder in folders if save_of(f"{folder}/file") in self._left_out}
        return [
            flaw
            for folder in sorted(fresh & folders.keys())
            for flaw in flaws_between(folder, folders[folder], text, records)
        ]

    def _never_whole(self, own: OwnSave, flaws: Iterable[Flaw]) -> frozenset[str]:
        """Return the names of saves to leave out: they must not hold up those that follow."""
        certain = [flaw for flaw in flaws if flaw.is_certain]
        names = {save_of(flaw.path) for flaw in certain}
        replaced = replaced_saves((flaw.path for flaw in certain), self._new(own))
        for flaw in certain:
            if save_of(flaw.path) in replaced - self._left_out:
                logger.warning("a save is left out: %s", flaw.reason)
        return replaced | (names & self._left_out)

    def _problem(
        self, own: OwnSave, flaws: Sequence[Flaw], nodes: Sequence[NodeFiles]
    ) -> tuple[str, bool]:
        """Return what is missing in a save, "" for nothing, and whether that is certain."""
        waiting = waits_for(nodes, own.step)
        certain = [flaw.reason for flaw in flaws if flaw.is_certain]
        if certain:
            return f"{certain[0]}; {waiting}" if waiting else certain[0], True
        # What `.metadata` names is all that such a save needs.
        if waiting and not any(METADATA.match(path.rpartition("/")[2]) for path in self._new(own)):
            return waiting, True
        return (flaws[0].reason if flaws else ""), False

    def _new(self, own: OwnSave) -> Iterable[str]:
        return (path for path in own.snapshot.changed if path in own.snapshot.view)

    def _records(self, own: OwnSave, entry: Entry) -> frozenset[str]:
        content = (entry.parts, entry.offset, entry.size_bytes)
        if content not in self._named:
            if entry.path not in own.snapshot.view:  # carried from the checkpoint before
                return frozenset()
            offsets = range(0, entry.size_bytes, BLOCK_BYTES)
            self._named[content] = named_records(
                own.read(entry.path, offset, BLOCK_BYTES) for offset in offsets
            )
        return self._named[content]
