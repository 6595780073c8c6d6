"""Upload of a snapshot: content-addressed parts in parallel, a few in memory at a time."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.aws.parts import PartStore
from runctl.checkpoint.bundles import Bundle, PinnedFile, check_unchanged, pack, to_repack
from runctl.checkpoint.chunks import (
    CHUNK_BYTES,
    BufferPool,
    Chunk,
    OpenFile,
    Reader,
    opened,
)
from runctl.checkpoint.fingerprint import ChunkIndex
from runctl.checkpoint.known_files import KnownFiles, Stored, is_small
from runctl.checkpoint.pinned_files import open_pinned
from runctl.checkpoint.settling import ChangedError, FileState, Snapshot
from runctl.checkpoint.stored_parts import StoredParts
from runctl.checkpoint.worker_pool import THREADS, alone, run_workers
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import CheckpointError, DamagedCheckpointError

UNREAD = Part(sha256="", size_bytes=0)
ASSUMED_BYTES_PER_SECOND = 50e6


class SupersededError(CheckpointError):
    """A newer snapshot is to be uploaded instead; parts that are stored already will help it."""


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload: the manifest's entries, and how much of it was new."""

    entries: tuple[Entry, ...]
    new_bytes: int


class Uploader:
    """Uploads snapshots of one folder; unchanged files are not read again."""

    def __init__(
        self,
        store: PartStore,
        *,
        threads: int = THREADS,
        group_of: Callable[[str], str] = lambda _path: "",
    ) -> None:
        """Upload with so many threads. Small files of different groups are not stored together."""
        self._threads = threads
        self._group_of = group_of
        self._parts = StoredParts(store)
        self._known = KnownFiles()
        self._index = ChunkIndex()
        self._pool = BufferPool(os.cpu_count() or 1)
        self._bytes_per_second = ASSUMED_BYTES_PER_SECOND
        self._last_new_bytes = 0

    def remember(self, folder_state: Mapping[str, FileState], manifest: Manifest) -> None:
        """Learn from a restored checkpoint which parts its files consist of."""
        self._parts.note(manifest.digests)
        self._known.note_restored(folder_state, manifest)

    def reuse_bundles_of(self, manifest: Manifest) -> None:
        """Reuse what a checkpoint of the run has in bundles, if they are still stored."""
        self._known.note_restored({}, manifest)

    def expected_time(self, folder_bytes: int) -> timedelta:
        """Estimate from measured uploads how long the next one takes."""
        size = self._last_new_bytes or folder_bytes
        return timedelta(seconds=size / self._bytes_per_second)

    @property
    def bytes_per_second(self) -> float:
        """The upload speed as last measured; an estimate before the first larger upload."""
        return self._bytes_per_second

    def forget(self, digests: Iterable[str]) -> None:
        """Forget parts that were just removed from the store, so that they are sent when needed."""
        self._parts.forget(digests)

    def find_gone(self, entries: Iterable[Entry]) -> list[str]:
        """Return the paths of files with a part that the store does not have any more."""
        entries = list(entries)
        gone = self._parts.find_gone(
            {part.sha256: part for entry in entries for part in entry.parts}
        )
        return [entry.path for entry in entries if any(part.sha256 in gone for part in entry.parts)]

    def upload(self, snapshot: Snapshot, pinned: Path, *, superseded: threading.Event) -> Uploaded:
        """Store the parts of a pinned snapshot and return its entries.

        Raises ChangedError if a file changed while it was being read, SupersededError if a newer
        snapshot is waiting, and whatever the store raises.
        """

        def open_file(_path: str, file_state: FileState) -> int:
            return open_pinned(pinned, file_state)

        return self.upload_from(open_file, snapshot, superseded=superseded)

    def upload_from(
        self,
        open_file: OpenFile,
        snapshot: Snapshot,
        *,
        superseded: threading.Event,
    ) -> Uploaded:
        """Do the same for a snapshot whose files `open_file` opens.

        Until this returns, nobody may write to them.
        """
        began = time.monotonic()
        self._parts.list_existing()
        self._index.begin()
        folder_state = sorted(snapshot.view.items())
        names: dict[tuple[int, int], str] = {}
        files: list[PinnedFile] = []
        for path, file_state in folder_state:
            if file_state.kind == "file" and file_state.inode not in names:
                names[file_state.inode] = path
                content = snapshot.contents.get(file_state.inode)
                files.append(PinnedFile(path, file_state, path in snapshot.logs, content))
        found, new_bytes = self._store_files(files, open_file, superseded)
        self._known.note_snapshot(
            (file.seen, found[file.path]) for file in files if not file.is_log
        )
        if new_bytes > CHUNK_BYTES // 8:  # fewer bytes measure latency rather than bandwidth
            self._bytes_per_second = max(new_bytes / (time.monotonic() - began), 1.0)
        self._last_new_bytes = max(new_bytes, self._last_new_bytes // 2)
        return Uploaded(
            tuple(_entry(path, file_state, names, found) for path, file_state in folder_state),
            new_bytes,
        )

    def _store_files(
        self, files: Sequence[PinnedFile], open_file: OpenFile, superseded: threading.Event
    ) -> tuple[dict[str, Stored], int]:
        """Store files part by part, with all threads busy across file boundaries."""
        new_bytes = _Total()
        small = [file for file in files if is_small(file.seen.size)]
        large = [file for file in files if not is_small(file.seen.size)]
        found, contents, unpacked = self._reuse(small)
        parts: dict[str, list[Part]] = {}

        def store(wanted: Iterator[_Wanted | _WantedBundle]) -> None:
            reader = Reader(self._pool)
            try:
                for job in wanted:
                    if isinstance(job, _WantedBundle):
                        bundle = job.files, open_file
                        found.update(self._store_bundle(*bundle, contents, reader, new_bytes))
                    else:
                        part = self._store_part(job, open_file, reader, new_bytes)
                        job.parts[job.index] = part
            finally:
                reader.release()

        def wanted() -> Iterator[_Wanted | _WantedBundle]:
            yield from (_WantedBundle(packed) for packed in pack(unpacked, self._group_of))
            yield from self._wanted(large, parts)

        run_workers(_stop_when(superseded, wanted()), store, threads=self._threads)
        for file in large:
            with opened(file.path, file.seen, open_file) as descriptor:
                info = os.fstat(descriptor)
            check_unchanged(file.path, file.seen, info, is_log=file.is_log)
            found[file.path] = Stored(tuple(parts[file.path]))
        return found, new_bytes.value

    def _reuse(
        self, files: Iterable[PinnedFile]
    ) -> tuple[dict[str, Stored], Mapping[str, Stored], list[PinnedFile]]:
        """Divide small files into those that are stored, by path, and those to be packed.

        Returns between them the stored contents that are reused, by digest.
        """
        found: dict[str, Stored] = {}
        contents = dict(self._known.contents)
        used: dict[str, tuple[Stored, int]] = {}
        unpacked: list[PinnedFile] = []
        for file in files:
            stored = self._known.find(file.seen)
            if stored is None or not stored.sha256:
                unpacked.append(file)
            else:
                found[file.path] = contents[stored.sha256] = stored
                used[stored.sha256] = stored, file.seen.size
        parts = {part.sha256: part for known in contents.values() for part in known.parts}
        lost = self._parts.find_gone(parts) | to_repack(
            used.values(), new_bytes=sum(file.seen.size for file in unpacked)
        )
        if lost:
            contents = {
                digest: known for digest, known in contents.items() if not _is_in(known, lost)
            }
            found = {path: known for path, known in found.items() if not _is_in(known, lost)}
            unpacked = [file for file in files if file.path not in found]
        return found, contents, unpacked

    def _store_bundle(
        self,
        files: Sequence[PinnedFile],
        open_file: OpenFile,
        contents: Mapping[str, Stored],
        reader: Reader,
        new_bytes: "_Total",
    ) -> dict[str, Stored]:
        bundle = Bundle(files[0].path, reader.acquire())
        with alone(len(files)):
            read = bundle.read(files, contents, open_file)
        part = bundle.part()
        if bundle.size_bytes and not self._parts.has(part):
            reader.release(bundle)
            self._send(part, bundle, new_bytes)
        found: dict[str, Stored] = {}
        for file, (digest, offset) in zip(files, read, strict=True):
            place = None if digest == part.sha256 else offset
            found[file.path] = stored = contents.get(digest) or Stored((part,), place, digest)
            if not file.is_log:
                self._known.note(file.seen, stored)
        return found

    def _wanted(
        self, files: Iterable[PinnedFile], found: dict[str, list[Part]]
    ) -> Iterator["_Wanted"]:
        """Yield the parts that may have to be stored, and add the others to `found`."""
        for file in files:
            size = file.seen.size
            offsets = range(0, size, CHUNK_BYTES)
            known = self._known.find(file.seen)
            parts = found[file.path] = list(known.parts if known else [UNREAD] * len(offsets))
            for index, offset in enumerate(offsets):
                if not self._parts.has(parts[index]):
                    chunk = min(CHUNK_BYTES, size - offset)
                    yield _Wanted(file.path, file.seen, offset, chunk, parts, index)

    def _store_part(
        self, wanted: "_Wanted", open_file: OpenFile, reader: Reader, new_bytes: "_Total"
    ) -> Part:
        expected = wanted.parts[wanted.index]
        if expected is not UNREAD:
            reader.release()
            if self._parts.ask_store(expected):
                return expected
        with opened(wanted.path, wanted.seen, open_file) as descriptor:
            chunk = Chunk(
                wanted.path, descriptor, wanted.offset, wanted.size_bytes, buffer=reader.acquire()
            )
            part = self._index.identify(chunk)
            if not self._parts.has(part):
                reader.release(chunk)
                self._send(part, chunk, new_bytes)
        return part

    def _send(self, part: Part, content: Chunk | Bundle, new_bytes: "_Total") -> None:
        try:
            if self._parts.put(part, content):
                new_bytes.add(part.size_bytes)
        except DamagedCheckpointError as exc:
            raise ChangedError(f"{content.name} was written to while it was being read") from exc


@dataclass(frozen=True)
class _Wanted:
    """A part of a file that may have to be stored; it becomes `parts[index]`."""

    path: str
    seen: FileState
    offset: int
    size_bytes: int
    parts: list[Part]
    index: int


@dataclass(frozen=True)
class _WantedBundle:
    """Small files that are stored together."""

    files: Sequence[PinnedFile]


class _Total:
    """A sum to which several threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, size: int) -> None:
        with self._lock:
            self.value += size


def _stop_when(
    superseded: threading.Event, jobs: Iterable["_Wanted | _WantedBundle"]
) -> Iterator["_Wanted | _WantedBundle"]:
    for job in jobs:
        if superseded.is_set():
            raise SupersededError("a newer snapshot is uploaded instead")
        yield job


def _is_in(stored: Stored, digests: Set[str]) -> bool:
    return any(part.sha256 in digests for part in stored.parts)


def _entry(
    path: str,
    file_state: FileState,
    names: Mapping[tuple[int, int], str],
    found: Mapping[str, Stored],
) -> Entry:
    kind, mode, time_ns = file_state.kind, file_state.mode, file_state.mtime_ns
    if kind != "file":
        return Entry(path=path, kind=kind, mode=mode, mtime_ns=time_ns, target=file_state.target)
    first, size = names[file_state.inode], file_state.size
    if first != path:
        return Entry(
            path=path, kind="hard", mode=mode, mtime_ns=time_ns, size_bytes=size, target=first
        )
    parts, offset, digest = found[path]
    if offset is None:
        return Entry(
            path=path, kind=kind, mode=mode, mtime_ns=time_ns, size_bytes=size, parts=parts
        )
    return Entry(
        path=path, kind=kind, mode=mode, mtime_ns=time_ns, size_bytes=size, parts=parts,
        offset=offset, sha256=digest,
    )  # fmt: skip
