"""Staging of a run's inputs: from S3 into the input folder, in parallel and verified."""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runctl.agent.ports import Inputs
from runctl.agent.prepare.staged_files import StagedFiles
from runctl.agent.reporting.progress import Progress
from runctl.checkpoint.worker_pool import run_workers
from runctl.model.errors import RequestError, TransientError
from runctl.model.input_sources import (
    MAX_OBJECTS,
    InputSource,
    StoredObject,
    empty,
    parse_input,
    place_objects,
    too_many,
)
from runctl.model.object_checksums import Checksum

MIB = 1024 * 1024
RANGE_BYTES = 16 * MIB
# Larger objects are fetched in ranges, at the same time.
LARGE_BYTES = 2 * RANGE_BYTES
READ_BYTES = MIB
MAX_TRIES = 5
RETRY_SECONDS = 1.0
# Bytes may change in transit; another read shows whether the object itself differs.
MAX_MISMATCHES = 3

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _File:
    """An object on its way to a path below the input folder; there may be 50,000."""

    path: str
    source: InputSource
    found: StoredObject
    number: int
    checksum: Checksum | None = None
    digests: dict[int, bytes] | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self.source.bucket}/{self.found.key}"

    @property
    def needs_checksum(self) -> bool:
        """Whether its checksum must be known before it is read; otherwise the answer has it."""
        return self.found.size_bytes > LARGE_BYTES or "-" in self.found.etag

    @property
    def range_bytes(self) -> int:
        if self.checksum is not None and self.checksum.is_of_parts:
            return self.checksum.part_bytes
        is_large = self.found.size_bytes > LARGE_BYTES
        return RANGE_BYTES if is_large else max(1, self.found.size_bytes)

    @property
    def offsets(self) -> range:
        return range(0, max(1, self.found.size_bytes), self.range_bytes)


class InputStager:
    """Makes the input folder match the inputs of a request.

    What an earlier attempt staged on this instance is kept while neither the object nor the file
    has changed. `check` is called often, and what it raises ends the staging.
    """

    def __init__(
        self,
        store: Inputs,
        *,
        folder: Path,
        state: Path,
        progress: Progress,
        check: Callable[[], None],
        log_level: int = logging.INFO,
    ) -> None:
        self._store = store
        self._folder = folder
        self._log_level = log_level
        self._incoming = state / "incoming-inputs"
        self._record = state / "inputs.jsonl"
        self._progress = progress
        self._check = check
        self._lock = threading.Lock()
        self._mismatches: Counter[str] = Counter()
        self._done = self._total = 0

    def stage(self, inputs: Mapping[str, str]) -> None:
        """Stage all inputs; an interrupted call may be repeated.

        Raises RequestError if an input is missing, empty, unreadable, cannot be written as files,
        or was changed meanwhile, and TransientError if waiting may help.
        """
        began = time.monotonic()
        files = {file.path: file for file in self._list(inputs)}
        folders = {folder for path in files for folder in _folders_of(path)}
        staged = StagedFiles(self._record, self._folder)
        staged.keep_only(files, folders)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(mode=0o700)
        for folder in sorted(folders):
            (self._folder / folder).mkdir(exist_ok=True)
        missing = [file for file in files.values() if not self._has(staged, file)]
        self._total = sum(file.found.size_bytes for file in files.values())
        self._done = self._total - sum(file.found.size_bytes for file in missing)
        self._count(0)
        run_workers([file for file in missing if file.needs_checksum], self._find_checksums)
        run_workers(self._ranges(missing), lambda jobs: self._fetch_ranges(jobs, staged))
        shutil.rmtree(self._incoming, ignore_errors=True)
        logger.log(
            self._log_level,
            "staged %d of %d input files, %d bytes in all, in %.2f s",
            len(missing),
            len(files),
            self._total,
            time.monotonic() - began,
        )

    def _list(self, inputs: Mapping[str, str]) -> Iterator[_File]:
        number = 0
        for name, uri in sorted(inputs.items()):
            self._check()
            source, before = parse_input(uri), number
            for path, found in place_objects(source, self._store.list_objects(source)):
                number += 1
                if number > MAX_OBJECTS:
                    raise RequestError(too_many())
                yield _File(f"{name}/{path}", source, found, number)
            if number == before:
                raise RequestError(f"input {name}: {empty(source)}")

    def _place(self, file: _File) -> Path:
        """Return where a file is until it is verified."""
        return self._incoming / str(file.number)

    def _has(self, staged: StagedFiles, file: _File) -> bool:
        return staged.has(
            file.path, uri=file.uri, etag=file.found.etag, size_bytes=file.found.size_bytes
        )

    def _find_checksums(self, files: Iterator[_File]) -> None:
        for file in files:
            self._check()
            file.checksum = self._store.find_checksum(file.source, file.found)

    def _ranges(self, files: list[_File]) -> Iterator[tuple[_File, int]]:
        for file in files:
            # Its ranges are written in any order.
            with self._place(file).open("wb") as stream:
                stream.truncate(file.found.size_bytes)
            for offset in file.offsets:
                yield file, offset

    def _fetch_ranges(self, jobs: Iterator[tuple[_File, int]], staged: StagedFiles) -> None:
        for file, offset in jobs:
            digest = self._fetch_with_retries(file, offset)
            with self._lock:
                file.digests = file.digests or {}
                file.digests[offset] = digest
                is_last = len(file.digests) == len(file.offsets)
            if is_last:
                self._verify(file)
                self._put_in_place(file, staged)

    def _fetch_with_retries(self, file: _File, offset: int) -> bytes:
        for number in range(1, MAX_TRIES + 1):
            counted = 0

            def count(size_bytes: int) -> None:
                nonlocal counted
                counted += size_bytes
                self._count(size_bytes)

            try:
                return self._fetch(file, offset, count)
            except TransientError as exc:
                self._count(-counted)
                if number == MAX_TRIES:
                    raise
                logger.info("reading %s again: %s", file.uri, exc)
                time.sleep(RETRY_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _fetch(self, file: _File, offset: int, count: Callable[[int], None]) -> bytes:
        """Write a range; return its digest if the object's checksum is one of parts."""
        size_bytes = min(file.range_bytes, file.found.size_bytes - offset)
        digest = file.checksum.new() if file.checksum and file.checksum.is_of_parts else None
        with (
            self._place(file).open("r+b") as stream,
            self._store.open(file.source, file.found, offset=offset, size_bytes=size_bytes) as part,
        ):
            file.checksum = file.checksum or part.checksum
            stream.seek(offset)
            left = size_bytes
            for chunk in part.chunks:
                self._check()
                left -= len(chunk)
                if left < 0:
                    break
                if digest is not None:
                    digest.update(chunk)
                stream.write(chunk)
                count(len(chunk))
        if left:
            raise TransientError(f"S3 did not send {size_bytes:,} bytes of {file.uri}")
        return b"" if digest is None else digest.digest()

    def _verify(self, file: _File) -> None:
        checksum = file.checksum
        if checksum is None or not checksum.algorithm:
            return  # each of its bytes was read with If-Match, and their number is right
        if checksum.is_of_parts and file.digests is not None:
            digests = [file.digests[offset] for offset in file.offsets]
        else:
            with self._place(file).open("rb") as stream:
                digests = [self._digest(checksum, stream)]
        if checksum.matches(digests):
            return
        self._mismatches[file.path] += 1
        message = f"{file.uri} does not match its checksum ({checksum.algorithm})"
        if self._mismatches[file.path] >= MAX_MISMATCHES:
            raise RequestError(f"{message}; upload it again")
        raise TransientError(message)

    def _digest(self, checksum: Checksum, stream: BinaryIO) -> bytes:
        digest = checksum.new()
        while chunk := stream.read(READ_BYTES):
            self._check()
            digest.update(chunk)
        return digest.digest()

    def _put_in_place(self, file: _File, staged: StagedFiles) -> None:
        place = self._place(file)
        place.chmod(0o644)
        place.replace(self._folder / file.path)
        staged.add(file.path, uri=file.uri, etag=file.found.etag)

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._done += size_bytes
            self._progress.stage(done_bytes=self._done, total_bytes=self._total)


def _folders_of(path: str) -> Iterator[str]:
    folder, slash, _ = path.rpartition("/")
    while slash:
        yield folder
        folder, slash, _ = folder.rpartition("/")
