"""The history of a run's saves: which was given, what a new one adds, and which are kept."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from runctl.checkpoint.candidates import PREVIOUS, keys_before
from runctl.checkpoint.restore import Fetched
from runctl.checkpoint.resumption import new_folder, not_resumed
from runctl.checkpoint.settling import FileState, FolderState, Snapshot
from runctl.checkpoint.stated_steps import Judged, Read, StepJudge
from runctl.checkpoint.step_names import is_state, number_in
from runctl.model.checkpoint import Manifest, is_step
from runctl.model.decision import is_progress
from runctl.model.run import Run, best_of
from runctl.policy.retention import StoredSave, choose_kept

PREVIOUS_STEPS = "previous_steps"
EDGE_BYTES = 4096
MAX_EDGES = 50
LIKELY_LOGS = (".txt", ".jsonl", ".ndjson")
_OLD_KEY = re.compile(r"/(\d{12})-\d{4,}(?:\.r\d+)?\.json$")


@dataclass(frozen=True)
class _Edges:
    """The first and last bytes of a file, which show whether it was only appended to."""

    size: int
    head: str
    tail: str


class SaveHistory:
    """A run's saves, as far as an attempt has to know them. No I/O except through `Read`."""

    def __init__(self, run: Run | None, *, attempt: int, keep_last: int) -> None:
        self._attempt = attempt
        self._keep_last = keep_last
        self._judge = StepJudge()
        self._save = 0 if run is None else run.save
        self._best = None if run is None else run.best_step
        self._proven = None if run is None else run.proven
        self._suspects = set() if run is None else set(run.suspects)
        self._given: StoredSave | None = None
        self._given_paths: frozenset[str] = frozenset()
        self._first: int | None = None
        self._has_looked = False
        self._saves: list[StoredSave] = []
        self._view: FolderState = {}
        self._edges: dict[str, _Edges] = {}

    @property
    def next_save(self) -> int:
        """The number of the next save."""
        return self._save + 1

    @property
    def step(self) -> int | None:
        """The step of the newest save, or None if it is unknown."""
        return self._saves[0].step if self._saves else None

    @property
    def kept(self) -> list[str]:
        """The keys of the checkpoints that are kept, newest first."""
        return [save.key for save in self._saves]

    def begin_from(self, restored: Fetched, folder_state: FolderState) -> None:
        """Continue from a restored checkpoint, which is what the folder holds now."""
        manifest = restored.manifest
        self._given = StoredSave(restored.key, manifest.step)
        self._given_paths = frozenset(
            path for path, file_state in folder_state.items() if file_state.kind == "file"
        )
        self._view = dict(folder_state)
        saves = [self._given, *_previous_of(manifest)]
        named = {save.key for save in saves}
        # The suspects are newer than the checkpoint that was restored instead.
        suspects = [StoredSave(key, None) for key in self._suspects - named]
        self._saves = sorted([*saves, *suspects], key=lambda one: one.key, reverse=True)
        self._saves.remove(self._given)
        self._saves.insert(0, self._given)

    def note_proven(self, key: str) -> None:
        """Record that a trainer has continued from a checkpoint."""
        self._proven = key
        self._suspects.discard(key)

    def judge(self, snapshot: Snapshot, reported_step: int | None, read: Read) -> Judged:
        """Judge which step a snapshot is of; a step stated by the helper takes precedence."""
        states = {
            path: snapshot.view[path]
            for path in snapshot.changed
            if path in snapshot.view and snapshot.view[path].kind == "file" and is_state(path)
        }
        grown = {
            path
            for path, file_state in states.items()
            if self._was_appended(path, file_state, read)
        }
        judged = self._judge.judge(
            snapshot.view, states.keys() - grown, held=self._view, current=self.step, read=read
        )
        if reported_step is not None:
            judged = replace(judged, step=reported_step, is_numbered=True)
        return replace(
            judged,
            # Without steps, a growing file may be all that the program produces.
            has_news=judged.has_news or (judged.step is None and bool(states)),
            continues=self._continues(snapshot, judged, states, grown),
        )

    def is_progress(self, judged: Judged) -> bool:
        """Return whether a save is progress of this attempt."""
        return is_progress(
            step=judged.step,
            first_step=self._first_with(judged),
            given_step=None if self._given is None else self._given.step,
            best_step=self._best,
            has_news=judged.has_news,
        )

    def metadata_of(self, judged: Judged) -> dict[str, object]:
        """Return what a snapshot's manifest says about the earlier checkpoints that are kept."""
        # A later save never looks like the first one, even if only the newest is kept.
        before = self._with("", judged)[1:] or self._saves[:1]
        before.sort(key=lambda one: one.key in self._suspects)  # proven ones first
        return {
            PREVIOUS: [predecessor.key for predecessor in before],
            PREVIOUS_STEPS: [predecessor.step for predecessor in before],
        }

    def add(
        self, key: str, manifest: Manifest, snapshot: Snapshot, judged: Judged, read: Read
    ) -> str:
        """Record a committed save; return a warning if the attempt did not resume, or ""."""
        self._saves = self._with(key, judged)
        is_first = self._first is None and judged.is_numbered
        self._first = self._first_with(judged)
        self._save = manifest.save
        if judged.step is not None:
            self._best = best_of(self._best, judged.step)
        present = {entry.path for entry in manifest.entries}
        self._view = {
            **{path: file_state for path, file_state in self._view.items() if path in present},
            **snapshot.view,
        }
        self._note_edges(snapshot, read)
        return self._warning(snapshot, judged, is_first=is_first)

    def _first_with(self, judged: Judged) -> int | None:
        if self._first is not None or not judged.is_numbered:
            return self._first
        return judged.step

    def _with(self, key: str, judged: Judged) -> list[StoredSave]:
        """Return the saves that are kept with a newest one, which may replace the one before."""
        newest = StoredSave(key, judged.step)
        protected = self._protected(newest)
        saves = list(self._saves)
        if judged.continues and saves and saves[0].key not in protected | self._given_keys:
            saves.pop(0)
        saves.insert(0, newest)
        kept = choose_kept(
            saves, keep=self._keep_last, protected=protected, suspects=self._suspects
        )
        return [save for save in saves if save.key in kept]

    @property
    def _given_keys(self) -> set[str]:
        return set() if self._given is None else {self._given.key}

    def _protected(self, newest: StoredSave) -> set[str]:
        protected = {self._proven} if self._proven is not None else set()
        if self._given is not None:
            passed = (
                newest.step is None or self._given.step is None or newest.step > self._given.step
            )
            if not passed:
                protected.add(self._given.key)
        return protected

    def _continues(
        self, snapshot: Snapshot, judged: Judged, states: Mapping[str, FileState], grown: set[str]
    ) -> bool:
        """Return whether a snapshot holds the previous save again, plus more of it or of a log."""
        if any(is_state(path) and path not in snapshot.view for path in snapshot.changed):
            return False
        if grown == states.keys():
            return judged.step == self.step
        if not judged.is_numbered or judged.step != self.step:
            return False
        return all(
            (found := number_in(path)) is not None
            and found.step == judged.step
            and (path in grown or path not in self._view or self._view[path].size == 0)
            for path in states
        )

    def _was_appended(self, path: str, file_state: FileState, read: Read) -> bool:
        edges, held = self._edges.get(path), self._view.get(path)
        if edges is None:
            # In a folder that was just restored, there is only the name to go by.
            if held is None or not path.endswith(LIKELY_LOGS):
                return False
            return held.inode == file_state.inode and held.size < file_state.size
        return edges.size < file_state.size and _edges_of(path, edges.size, read) == edges

    def _note_edges(self, snapshot: Snapshot, read: Read) -> None:
        self._edges = {path: edges for path, edges in self._edges.items() if path in snapshot.view}
        for path in snapshot.changed[:MAX_EDGES]:
            file_state = snapshot.view.get(path)
            if (
                file_state is not None
                and file_state.kind == "file"
                and file_state.size
                and is_state(path)
            ):
                self._edges[path] = _edges_of(path, file_state.size, read)

    def _warning(self, snapshot: Snapshot, judged: Judged, *, is_first: bool) -> str:
        given = self._given
        if given is None:
            return ""
        if is_first and (said := not_resumed(self._attempt, given=given.step, first=judged.step)):
            return said
        is_beyond = judged.step is not None and judged.step > (given.step or 0)
        if not judged.has_news or self._has_looked or (judged.is_numbered and is_beyond):
            return ""
        self._has_looked = True
        changed = [path for path in snapshot.changed if path in snapshot.view]
        return new_folder(self._attempt, given=self._given_paths, changed=changed)


def _previous_of(manifest: Manifest) -> list[StoredSave]:
    listed = manifest.metadata.get(PREVIOUS_STEPS)
    steps = listed if isinstance(listed, list) else []
    return [
        StoredSave(key, step if is_step(step) else _step_of_old_key(key))
        for key, step in zip_longest(keys_before(manifest), steps)
        if key is not None
    ]


def _step_of_old_key(key: str) -> int | None:
    """Return the step in a key of a version 1 manifest; newer keys have none."""
    match = _OLD_KEY.search(key)
    return None if match is None else int(match[1])


def _edges_of(path: str, size: int, read: Read) -> _Edges:
    length = min(size, EDGE_BYTES)
    head, tail = (
        hashlib.sha256(read(path, offset, length)).hexdigest() for offset in (0, size - length)
    )
    return _Edges(size, head, tail)
