"""Putting the checkpoint folder back as it was, from parts that are fetched ahead of time."""

import contextlib
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.faults import reach
from runctl.agent.room import Room
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Entry, Manifest, Part
from runctl.model.errors import DamagedCheckpointError

THREADS = 8
PREVIOUS = "previous"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A checkpoint whose every file is here and verified."""

    key: str
    manifest: Manifest


class Restorer:
    """Fetches checkpoints into `incoming`, then moves one into the checkpoint folder."""

    def __init__(self, store: CheckpointStore, incoming: Path, *, threads: int = THREADS) -> None:
        self._store = store
        self._incoming = incoming
        self._threads = threads
        self._room = Room()
        self._lock = threading.Lock()
        self._parts: dict[str, tuple[Path, int]] = {}
        self.fetched: Fetched | None = None

    def fetch(self, key: str) -> Fetched:
        """Fetch the checkpoint that the ledger names, or the newest whole one before it.

        What an earlier fetch brought is not fetched again. Raises DamagedCheckpointError when
        neither it nor any before it is whole.
        """
        with self._lock:
            if self.fetched is not None and self.fetched.key == key:
                return self.fetched
            last: DamagedCheckpointError | None = None
            for candidate in self._candidates(key):
                try:
                    manifest = self._store.get_manifest(candidate)
                    reach("restore.manifest_read")
                    self._fetch_files(manifest)
                except DamagedCheckpointError as exc:
                    logger.warning("the checkpoint %s is damaged: %s", candidate, exc)
                    last = exc
                    continue
                if candidate == key:
                    self.fetched = Fetched(key, manifest)
                    return self.fetched
                return Fetched(candidate, manifest)
            raise DamagedCheckpointError(f"no whole checkpoint is left; {last}") from last

    def _candidates(self, key: str) -> Iterator[str]:
        """Yield the checkpoint and then those before it, as the chain of manifests names them."""
        yield key
        tried = {key}
        try:
            older = list(self._store.get_manifest(key).metadata.get(PREVIOUS, ()))
        except DamagedCheckpointError:
            # Without its manifest nothing names the others; each of them is whole by itself.
            older = [other for other in self._store.manifest_keys() if other < key]
        for other in older:
            if other not in tried:
                tried.add(other)
                yield other

    def _fetch_files(self, manifest: Manifest) -> None:
        self._incoming.mkdir(parents=True, exist_ok=True)
        wanted = {_content_name(entry): entry for entry in manifest.entries if entry.kind == "file"}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="restore") as pool:
            jobs = [
                pool.submit(self._fetch_part, part, self._incoming / f"{name}.new", offset)
                for name, entry in wanted.items()
                if not (self._incoming / name).exists()
                for part, offset in self._prepare(self._incoming / f"{name}.new", entry)
            ]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise
        for name, entry in wanted.items():
            path = self._incoming / name
            if not path.exists():
                (self._incoming / f"{name}.new").replace(path)
                for part, offset in _offsets(entry.parts):
                    self._parts[part.sha256] = (path, offset)
        for path in self._incoming.iterdir():
            if path.name not in wanted:
                self._forget(path)

    def _prepare(self, path: Path, entry: Entry) -> Iterator[tuple[Part, int]]:
        with path.open("wb") as stream:
            stream.truncate(entry.size_bytes)
        return _offsets(entry.parts)

    def _fetch_part(self, part: Part, path: Path, offset: int) -> None:
        with self._room.taken(part.size_bytes):
            content = self._local_part(part)
            if content is None:
                content = self._store.get_part(part)
                reach("restore.first_part_fetched")
            with path.open("r+b") as stream:
                stream.seek(offset)
                stream.write(content)

    def _local_part(self, part: Part) -> bytes | None:
        """Return a part that an earlier fetch brought, verified, or None."""
        if part.sha256 not in self._parts:
            return None
        path, offset = self._parts[part.sha256]
        with contextlib.suppress(OSError), path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(part.size_bytes)
            if hashlib.sha256(content).hexdigest() == part.sha256:
                return content
        return None

    def _forget(self, path: Path) -> None:
        self._parts = {key: place for key, place in self._parts.items() if place[0] != path}
        path.unlink()

    def put_in_place(self, manifest: Manifest, folder: Path) -> None:
        """Make `folder` what the manifest says: nothing more, nothing less, times and modes too."""
        reach("restore.fetched")
        clear(folder)
        reach("restore.folder_cleared")
        entries = sorted(manifest.entries, key=lambda entry: entry.path)
        names = [_content_name(entry) for entry in entries if entry.kind == "file"]
        for entry in entries:
            path = _inside(folder, entry.path)
            if entry.kind == "dir":
                path.mkdir(parents=True, exist_ok=True)
            elif entry.kind == "link":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(entry.target)
            elif entry.kind == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                name = _content_name(entry)
                names.remove(name)
                if name in names:  # another file with the same content still needs it
                    shutil.copyfile(self._incoming / name, path)
                else:
                    (self._incoming / name).replace(path)
                reach("restore.first_file_placed")
        for entry in entries:
            if entry.kind == "hard":
                path = _inside(folder, entry.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(_inside(folder, entry.target), path)
        # Children before parents: what is put into a folder changes the folder's time.
        for entry in sorted(entries, key=lambda entry: entry.path, reverse=True):
            path = _inside(folder, entry.path)
            if entry.kind != "link":
                path.chmod(entry.mode)
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        reach("restore.placed")
        self.discard()

    def discard(self) -> None:
        """Remove what was fetched."""
        self.fetched = None
        self._parts = {}
        shutil.rmtree(self._incoming, ignore_errors=True)


def clear(folder: Path) -> None:
    """Empty a folder, creating it if need be; it may be in use as a working directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in os.scandir(folder):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path)
        else:
            Path(item.path).unlink()


def _content_name(entry: Entry) -> str:
    """Name a file by its content, so that the same content is fetched once."""
    digests = "".join(part.sha256 for part in entry.parts)
    return hashlib.sha256(digests.encode()).hexdigest()


def _offsets(parts: Iterable[Part]) -> Iterator[tuple[Part, int]]:
    offset = 0
    for part in parts:
        yield part, offset
        offset += part.size_bytes


def _inside(folder: Path, path: str) -> Path:
    """Return a path below the folder; a manifest must not lead anywhere else."""
    if path.startswith("/") or ".." in path.split("/"):
        raise DamagedCheckpointError(f"the manifest names {path!r}, outside the checkpoint folder")
    return folder / path
