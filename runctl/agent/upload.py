"""Uploading a snapshot: content-addressed parts in parallel, a few in memory at a time."""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.agent.faults import reach
from runctl.agent.fingerprint import Recognizer
from runctl.agent.pieces import PIECE_BYTES, Desks, Piece, Reader, opened
from runctl.agent.pins import pin_name
from runctl.agent.sharing import share
from runctl.agent.snapshot import ChangedError, Seen, Take
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Entry, Manifest, Part
from runctl.model.errors import CheckpointError, DamagedCheckpointError, RefusedError

UNREAD = Part(sha256="", size_bytes=0)
# How long a part counts as stored after we saw it; nothing collects parts younger than a day.
RECHECK_AFTER = timedelta(minutes=10)
ASSUMED_BYTES_PER_SECOND = 50e6

logger = logging.getLogger(__name__)


class SupersededError(CheckpointError):
    """A newer snapshot is to be uploaded instead; the parts that are there already help it."""


@dataclass(frozen=True)
class Uploaded:
    """What an upload made: the manifest's entries, and how much of it was new."""

    entries: tuple[Entry, ...]
    new_bytes: int


class Uploader:
    """Uploads snapshots of one folder; unchanged files are not even read again."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._recognizer = Recognizer()
        self._desks = Desks(os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._stored: dict[str, float] = {}
        self._known: dict[tuple[tuple[int, int], int, int], tuple[Part, ...]] = {}
        self._bytes_per_second = ASSUMED_BYTES_PER_SECOND
        self._last_new_bytes = 0
        self._has_listed = False

    def remember(self, view: Mapping[str, Seen], manifest: Manifest) -> None:
        """Learn from a checkpoint that was just restored which parts its files consist of."""
        now = time.monotonic()
        for entry in manifest.entries:
            self._stored.update({part.sha256: now for part in entry.parts})
            seen = view.get(entry.path)
            if entry.kind == "file" and seen is not None and seen.size == entry.size_bytes:
                self._known[_identity(seen)] = entry.parts

    def expected_time(self, folder_bytes: int) -> timedelta:
        """Guess from measured uploads how long the next one takes."""
        size = self._last_new_bytes or folder_bytes
        return timedelta(seconds=size / self._bytes_per_second)

    def upload(self, take: Take, pinned: Path, *, superseded: threading.Event) -> Uploaded:
        """Store the parts of a pinned snapshot and return its entries.

        Raises ChangedError when a file changed while it was read, SupersededError when told to
        stop, and what the store raises.
        """
        began = time.monotonic()
        self._look_at_store()
        self._recognizer.begin()
        names: dict[tuple[int, int], str] = {}
        jobs: list[tuple[str, Seen]] = []
        for path, seen in sorted(take.view.items()):
            if seen.kind == "file" and seen.inode not in names:
                names[seen.inode] = path
                jobs.append((path, seen))
        parts, new_bytes = self._store_files(jobs, pinned, take.logs, superseded)
        if new_bytes > PIECE_BYTES // 8:  # less says more about latency than about bandwidth
            self._bytes_per_second = max(new_bytes / (time.monotonic() - began), 1.0)
        self._last_new_bytes = max(new_bytes, self._last_new_bytes // 2)
        entries = tuple(
            _entry(path, seen, names, parts) for path, seen in sorted(take.view.items())
        )
        return Uploaded(entries, new_bytes)

    def _look_at_store(self) -> None:
        """List once what an earlier attempt or a save that was never finished left.

        One call for a thousand parts, where asking for each would double the requests of a first
        save. A part that is missing in the list, which S3 never leaves out, would only be stored
        again.
        """
        if self._has_listed:
            return
        try:
            stored = [part.sha256 for part in self._store.parts()]
        except RefusedError as exc:
            logger.warning("what is stored already cannot be listed, so it is sent again: %s", exc)
            stored = []
        now = time.monotonic()
        with self._lock:
            self._stored.update(dict.fromkeys(stored, now))
        self._has_listed = True

    @property
    def bytes_per_second(self) -> float:
        """The upload's speed as last measured, a guess before the first larger one."""
        return self._bytes_per_second

    def _store_files(
        self,
        jobs: Iterable[tuple[str, Seen]],
        pinned: Path,
        logs: frozenset[str],
        superseded: threading.Event,
    ) -> tuple[dict[str, tuple[Part, ...]], int]:
        """Store files a part at a time, all threads busy across file borders."""
        new_bytes = _Total()
        found: dict[str, list[Part]] = {}

        def store(wanted: Iterator[_Wanted]) -> None:
            reader = Reader(self._desks)
            try:
                for one in wanted:
                    one.parts[one.index] = self._store_part(one, reader, new_bytes)
            finally:
                reader.leave()

        share(self._wanted(jobs, pinned, found, superseded), store)
        for path, seen in jobs:
            _check_unchanged(path, seen, f"{pinned}/{pin_name(seen)}", is_log=path in logs)
            if path not in logs:
                self._known[_identity(seen)] = tuple(found[path])
        return {path: tuple(parts) for path, parts in found.items()}, new_bytes.value

    def _wanted(
        self,
        jobs: Iterable[tuple[str, Seen]],
        pinned: Path,
        found: dict[str, list[Part]],
        superseded: threading.Event,
    ) -> Iterator["_Wanted"]:
        """Yield the parts that may have to be stored, and note the others in `found`."""
        for path, seen in jobs:
            known = self._known.get(_identity(seen))
            offsets = range(0, seen.size, PIECE_BYTES)
            parts = found[path] = list(known or [UNREAD] * len(offsets))
            place = f"{pinned}/{pin_name(seen)}"
            for index, offset in enumerate(offsets):
                if superseded.is_set():
                    raise SupersededError("a newer snapshot is uploaded instead")
                if not self._is_stored(parts[index]):
                    size = min(PIECE_BYTES, seen.size - offset)
                    yield _Wanted(path, place, offset, size, parts, index)

    def _store_part(self, wanted: "_Wanted", reader: Reader, new_bytes: "_Total") -> Part:
        expected = wanted.parts[wanted.index]
        if expected is not UNREAD:
            reader.leave()
            if self._store.has_part(expected):
                self._note_stored(expected)
                return expected
        with opened(wanted.place, name=wanted.path) as descriptor:
            piece = Piece(
                wanted.path, descriptor, wanted.offset, wanted.size_bytes, buffer=reader.desk()
            )
            part = self._recognizer.identify(piece)
            if not self._is_stored(part):
                reader.leave(piece)
                self._send(part, piece, new_bytes)
        return part

    def _send(self, part: Part, piece: Piece, new_bytes: "_Total") -> None:
        if not self._was_stored(part) or not self._store.has_part(part):
            try:
                self._store.put_part(part, piece)
            except DamagedCheckpointError as exc:
                raise ChangedError(f"{piece.name} was written to while it was read") from exc
            reach("save.first_part_stored")
            new_bytes.add(part.size_bytes)
        self._note_stored(part)

    def _was_stored(self, part: Part) -> bool:
        """Whether it was stored when last seen, which is too long ago to count on."""
        with self._lock:
            return part.sha256 in self._stored

    def _is_stored(self, part: Part) -> bool:
        with self._lock:
            seen = self._stored.get(part.sha256)
        return seen is not None and time.monotonic() - seen < RECHECK_AFTER.total_seconds()

    def _note_stored(self, part: Part) -> None:
        with self._lock:
            self._stored[part.sha256] = time.monotonic()

    def forget(self, digests: Iterable[str]) -> None:
        """Parts that were just removed from the store must be uploaded again when needed."""
        with self._lock:
            for digest in digests:
                self._stored.pop(digest, None)


@dataclass(frozen=True)
class _Wanted:
    """A part of a file that may have to be stored; it goes into `parts[index]`."""

    path: str
    place: str
    offset: int
    size_bytes: int
    parts: list[Part]
    index: int


class _Total:
    """A sum that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, size: int) -> None:
        with self._lock:
            self.value += size


def _identity(seen: Seen) -> tuple[tuple[int, int], int, int]:
    return seen.inode, seen.size, seen.mtime_ns


def _check_unchanged(path: str, seen: Seen, pinned: str, *, is_log: bool) -> None:
    try:
        info = os.stat(pinned)
    except FileNotFoundError as exc:
        raise ChangedError(f"{path} was removed while it was read") from exc
    if is_log and info.st_size >= seen.size:
        return
    if (info.st_size, info.st_mtime_ns) != (seen.size, seen.mtime_ns):
        raise ChangedError(f"{path} was written to while it was read")


def _entry(
    path: str,
    seen: Seen,
    names: Mapping[tuple[int, int], str],
    parts: Mapping[str, tuple[Part, ...]],
) -> Entry:
    if seen.kind != "file":
        return Entry(
            path=path, kind=seen.kind, mode=seen.mode, mtime_ns=seen.mtime_ns, target=seen.target
        )
    first = names[seen.inode]
    return Entry(
        path=path,
        kind="file" if first == path else "hard",
        mode=seen.mode,
        mtime_ns=seen.mtime_ns,
        size_bytes=seen.size,
        target="" if first == path else first,
        parts=parts[path] if first == path else (),
    )
