"""Uploading a snapshot: content-addressed parts in parallel, a few in memory at a time."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.agent.faults import reach
from runctl.agent.pins import pin_name
from runctl.agent.room import Room
from runctl.agent.snapshot import ChangedError, Seen, Take
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Entry, Manifest, Part
from runctl.model.errors import CheckpointError, RefusedError

PART_BYTES = 8 * 1024 * 1024
THREADS = 8
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

    def __init__(self, store: CheckpointStore, *, threads: int = THREADS) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="upload")
        self._room = Room()
        self._threads = threads
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
        names: dict[tuple[int, int], str] = {}
        jobs: list[tuple[str, Seen]] = []
        for path, seen in sorted(take.view.items()):
            if seen.kind == "file" and seen.inode not in names:
                names[seen.inode] = path
                jobs.append((path, seen))
        parts, new_bytes = self._store_files(jobs, pinned, take.logs, superseded)
        if new_bytes > PART_BYTES // 8:  # less says more about latency than about bandwidth
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

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _store_files(
        self,
        jobs: Iterable[tuple[str, Seen]],
        pinned: Path,
        logs: frozenset[str],
        superseded: threading.Event,
    ) -> tuple[dict[str, tuple[Part, ...]], int]:
        """Store files a part at a time, all threads busy across file borders."""
        found: dict[str, tuple[Part, ...]] = {}
        lengths = _Total()
        pieces: dict[str, list[Future[Part]]] = {}
        running: set[Future[Part]] = set()
        try:
            for path, seen in jobs:
                known = self._known.get(_identity(seen))
                offsets = range(0, seen.size, PART_BYTES)
                pieces[path] = []
                for index, offset in enumerate(offsets):
                    if superseded.is_set():
                        raise SupersededError("a newer snapshot is uploaded instead")
                    expected = known[index] if known else None
                    if expected is not None and self._is_stored(expected):
                        pieces[path].append(_done(expected))
                        continue
                    if len(running) >= 2 * self._threads:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        _raise_first(done)
                    size = min(PART_BYTES, seen.size - offset)
                    job = self._pool.submit(
                        self._store_part, pinned / pin_name(seen), offset, size, expected, lengths
                    )
                    running.add(job)
                    pieces[path].append(job)
            for path, seen in jobs:
                found[path] = tuple(piece.result() for piece in pieces[path])
                _check_unchanged(path, seen, pinned / pin_name(seen), is_log=path in logs)
                if path not in logs:
                    self._known[_identity(seen)] = found[path]
        finally:
            for job in running:
                job.cancel()
            wait(running)
        return found, lengths.value

    def _store_part(
        self, path: Path, offset: int, size: int, expected: Part | None, lengths: "_Total"
    ) -> Part:
        if expected is not None and self._store.has_part(expected):
            self._note_stored(expected)
            return expected
        with self._room.taken(size):
            return self._store_content(_read(path, offset, size), lengths)

    def _store_content(self, content: bytes, lengths: "_Total") -> Part:
        size = len(content)
        part = Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=size)
        if not self._is_stored(part):
            if not self._was_stored(part) or not self._store.has_part(part):
                self._store.put_part(part, content)
                reach("save.first_part_stored")
                lengths.add(size)
            self._note_stored(part)
        return part

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


def _done(part: Part) -> "Future[Part]":
    future: Future[Part] = Future()
    future.set_result(part)
    return future


def _raise_first(done: Iterable["Future[Part]"]) -> None:
    for job in done:
        job.result()


def _read(path: Path, offset: int, size: int) -> bytes:
    content = bytearray()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as exc:
        raise ChangedError(f"{path.name} was removed while it was read") from exc
    try:
        while len(content) < size:
            piece = os.pread(descriptor, size - len(content), offset + len(content))
            if not piece:
                raise ChangedError(f"{path.name} became shorter while it was read")
            if len(piece) == size:
                return piece
            content += piece
    finally:
        os.close(descriptor)
    return bytes(content)


def _check_unchanged(path: str, seen: Seen, pinned: Path, *, is_log: bool) -> None:
    try:
        info = pinned.stat()
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
