"""Fetching the files of a manifest, and putting them in place."""

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from runctl.aws.fast_s3.http1 import Buffer, Write
from runctl.aws.parts import PartStore
from runctl.beneath.changes import clear
from runctl.checkpoint.local_files import BLOCK_BYTES, LocalFiles
from runctl.checkpoint.placing import NEW_FILE_FLAGS, place
from runctl.checkpoint.unpacking import OLD_FILE_FLAGS, Unpacking
from runctl.checkpoint.worker_pool import run_workers
from runctl.fault_points import reach
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import DamagedCheckpointError


@dataclass(frozen=True)
class _Missing:
    """A part of the file `name` that is to be fetched, and where it goes."""

    part: Part
    name: str
    path: str
    offset: int
    is_alone: bool


@dataclass(frozen=True)
class _MissingBundle:
    """A bundle to be fetched, with the destinations of its files, in order."""

    part: Part
    files: Sequence[tuple[str, Entry]]


class FileFetcher:
    """Fetches files into `incoming`, a folder on the file system where they are to be placed.

    It is not safe to share between threads; it uses several itself. `fetched_bytes` is how much the
    last call of `fetch_files` had to fetch.
    """

    def __init__(self, store: PartStore, incoming: Path) -> None:
        self._store = store
        self._incoming = incoming
        self._complete: set[str] = set()
        self._parts: dict[str, tuple[str, int]] = {}
        self._counting = threading.Lock()
        self.fetched_bytes = 0

    def fetch_files(self, manifest: Manifest, *, reuse: Path | None = None) -> None:
        """Fetch and verify every file of a manifest; what an earlier call brought is kept.

        `reuse` is a folder on the same file system that nobody writes to: files that it has already
        are not fetched. Raises DamagedCheckpointError, which names the file, if one cannot be had
        as the manifest describes it.
        """
        self.fetched_bytes = 0
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keep_only(self._complete)  # an interrupted fetch leaves files behind
        wanted = {_content_name(entry): entry for entry in manifest.entries if entry.kind == "file"}
        if reuse is not None:
            with LocalFiles.of(reuse) as local:
                self._take_from(local, wanted)
        run_workers(self._missing(wanted), self._fetch_parts)
        for name, entry in wanted.items():
            self._note(name, entry)
        self._keep_only(wanted.keys())

    def _take_from(self, local: LocalFiles, wanted: Mapping[str, Entry]) -> None:
        taken: list[tuple[str, Entry]] = []

        def take(files: Iterator[tuple[str, Entry]]) -> None:
            for name, entry in files:
                if local.take(entry, f"{self._incoming}/{name}"):
                    taken.append((name, entry))

        missing = [(name, entry) for name, entry in wanted.items() if name not in self._complete]
        run_workers(missing, take)
        for name, entry in taken:
            self._note(name, entry)

    def _note(self, name: str, entry: Entry) -> None:
        """Note that a file is complete, and where its parts are."""
        if name in self._complete:
            return
        self._complete.add(name)
        if entry.offset is not None:
            return  # no file needs the whole bundle
        for part, offset in _offsets(entry.parts):
            self._parts[part.sha256] = (f"{self._incoming}/{name}", offset)

    def _keep_only(self, names: Set[str]) -> None:
        for name in set(os.listdir(self._incoming)) - names:
            self._forget(name)

    def _missing(self, wanted: Mapping[str, Entry]) -> Iterator["_Missing | _MissingBundle"]:
        """Yield the parts that are missing; a file of several parts already has its full length."""
        bundles: dict[Part, list[tuple[str, Entry]]] = {}
        for name, entry in wanted.items():
            if name in self._complete:
                continue
            path = f"{self._incoming}/{name}"
            if entry.offset is not None:
                bundles.setdefault(entry.parts[0], []).append((path, entry))
                continue
            if len(entry.parts) != 1:
                descriptor = os.open(path, NEW_FILE_FLAGS, 0o600)
                try:
                    os.ftruncate(descriptor, entry.size_bytes)
                finally:
                    os.close(descriptor)
            for part, offset in _offsets(entry.parts):
                is_alone = len(entry.parts) == 1
                yield _Missing(part, entry.path, path, offset, is_alone=is_alone)
        for part, files in bundles.items():
            yield _MissingBundle(part, sorted(files, key=lambda file: file[1].offset or 0))

    def _fetch_parts(self, parts: Iterator["_Missing | _MissingBundle"]) -> None:
        for part in parts:
            if isinstance(part, _MissingBundle):
                unpacking = Unpacking(part.files)
                self._get_part(part.part, unpacking.write, part.files[0][1].path)
                unpacking.check()
                continue
            # The file of several parts exists already.
            flags = NEW_FILE_FLAGS if part.is_alone else OLD_FILE_FLAGS
            descriptor = os.open(part.path, flags, 0o600)
            try:
                self._fetch_part(part, descriptor)
            finally:
                os.close(descriptor)

    def _fetch_part(self, one: "_Missing", descriptor: int) -> None:
        def write(offset: int, chunk: Buffer) -> None:
            done = 0
            while done < len(chunk):  # a file system that fills up accepts only a part of it
                done += os.pwrite(descriptor, chunk[done:], one.offset + offset + done)

        content = self._local_part(one.part)
        if content is not None:
            write(0, content)
            return
        self._get_part(one.part, write, one.name)

    def _get_part(self, part: Part, write: Write, name: str) -> None:
        try:
            self._store.get_part(part, write)
        except DamagedCheckpointError as exc:
            raise DamagedCheckpointError(f"{name!a} cannot be fetched: {exc}") from exc
        with self._counting:
            self.fetched_bytes += part.size_bytes
        reach("restore.first_part_fetched")

    def _local_part(self, part: Part) -> bytes | None:
        """Return a part that an earlier fetch brought, verified, or None."""
        if part.sha256 not in self._parts:
            return None
        path, offset = self._parts[part.sha256]
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            stream.seek(offset)
            content = stream.read(part.size_bytes)
            if hashlib.sha256(content).hexdigest() == part.sha256:
                return content
        return None

    def _forget(self, name: str) -> None:
        path = f"{self._incoming}/{name}"
        self._complete.discard(name)
        self._parts = {key: place for key, place in self._parts.items() if place[0] != path}
        os.unlink(path)

    def read(self, entry: Entry) -> Iterator[bytes]:
        """Yield the content of a file that was fetched, block by block."""
        with open(f"{self._incoming}/{_content_name(entry)}", "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    def put_in_place(self, manifest: Manifest, folder: Path) -> None:
        """Make `folder` match the manifest exactly, including times and modes."""
        reach("restore.fetched")
        clear(folder)
        reach("restore.folder_cleared")
        place(manifest.entries, folder, self._incoming, _content_name)
        reach("restore.placed")
        self.discard()

    def discard(self) -> None:
        """Remove what was fetched."""
        self._complete = set()
        self._parts = {}
        shutil.rmtree(self._incoming, ignore_errors=True)


def _content_name(entry: Entry) -> str:
    """Name a file by its content, so that the same content is fetched once."""
    if entry.offset is not None:
        return entry.sha256
    if len(entry.parts) == 1:
        return entry.parts[0].sha256
    digests = "".join(part.sha256 for part in entry.parts)
    return hashlib.sha256(digests.encode()).hexdigest()


def _offsets(parts: Iterable[Part]) -> Iterator[tuple[Part, int]]:
    offset = 0
    for part in parts:
        yield part, offset
        offset += part.size_bytes
