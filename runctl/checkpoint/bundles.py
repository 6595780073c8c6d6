"""Bundles: small files that share a part, since one request costs as much as many files' bytes."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runctl.checkpoint.chunks import BUFFER_BYTES, OpenFile, opened
from runctl.checkpoint.known_files import Stored
from runctl.checkpoint.settling import ChangedError, FileState
from runctl.model.checkpoint_entry import Part

# A bundle is read into one buffer and sent from there.
BUNDLE_BYTES = BUFFER_BYTES
# Bundles with less than this in use are repacked, so they take at most twice the space in use.
MIN_LIVE_SHARE = 0.5
# If there are more bundles than this, and twice as many as necessary, short ones are repacked: each
# costs a request when the checkpoint is restored.
SPARE_BUNDLES = 32
# A save repacks at most as many bytes as it sends anyway, or this many: the last save is urgent.
REPACKED_BYTES = 8 * BUNDLE_BYTES


class PinnedFile(NamedTuple):
    """A file of a snapshot; its bytes are `content`, or have to be read."""

    path: str
    seen: FileState
    is_log: bool
    content: bytes | None = None


def pack(
    files: Iterable[PinnedFile], group_of: Callable[[str], str] = lambda _path: ""
) -> Iterator[list[PinnedFile]]:
    """Divide files into bundles, in order: the same files make the same bundles.

    A bundle has files of one group only, so a group makes the same bundles among other groups.
    """
    bundle: list[PinnedFile] = []
    size = 0
    for file in files:
        if bundle and (
            size + file.seen.size > BUNDLE_BYTES or group_of(file.path) != group_of(bundle[0].path)
        ):
            yield bundle
            bundle, size = [], 0
        bundle.append(file)
        size += file.seen.size
    if bundle:
        yield bundle


def to_repack(used: Iterable[tuple[Stored, int]], *, new_bytes: int) -> set[str]:
    """Return the digests of the bundles whose files are to be repacked.

    `used` is what the snapshot needs from bundles: each content once, with its size. `new_bytes` go
    into new bundles in any case. The emptiest bundles come first.
    """
    live: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for stored, size in used:
        (part,) = stored.parts
        live[part.sha256] = live.get(part.sha256, 0) + size
        sizes[part.sha256] = part.size_bytes
    enough = -(-sum(live.values()) // BUNDLE_BYTES)
    has_too_many = len(live) > 2 * enough + SPARE_BUNDLES
    left = max(new_bytes, REPACKED_BYTES)
    chosen: set[str] = set()
    for size, digest in sorted((size, digest) for digest, size in live.items()):
        is_sparse = size < MIN_LIVE_SHARE * sizes[digest]
        is_short = has_too_many and size < MIN_LIVE_SHARE * BUNDLE_BYTES
        if (is_sparse or is_short) and size <= left:
            left -= size
            chosen.add(digest)
    return chosen


@dataclass
class Bundle:
    """Small files in one buffer, one after another; equal contents are stored once."""

    name: str
    buffer: memoryview
    size_bytes: int = 0
    is_held: bool = True

    def __iter__(self) -> Iterator[memoryview]:
        yield self.buffer[: self.size_bytes]

    def read(
        self, files: Sequence[PinnedFile], known: Collection[str], open_file: OpenFile
    ) -> list[tuple[str, int]]:
        """Read files; return the digest of each and its offset in the bundle.

        Contents that are in `known` are not kept here, and their offset is meaningless. Raises
        ChangedError if a file differs from its recorded state.
        """
        offsets: dict[str, int] = {}
        found = []
        for file in files:
            end = self.size_bytes + file.seen.size
            content = self.buffer[self.size_bytes : end]
            if file.content is None:
                _read(file, content, open_file)
            else:
                content[:] = file.content
            digest = hashlib.sha256(content).hexdigest()
            if digest not in known and digest not in offsets:
                offsets[digest] = self.size_bytes
                self.size_bytes = end
            found.append((digest, offsets.get(digest, 0)))
        return found

    def part(self) -> Part:
        """Return the bundle as a part."""
        digest = hashlib.sha256(self.buffer[: self.size_bytes]).hexdigest()
        return Part(sha256=digest, size_bytes=self.size_bytes)


def _read(file: PinnedFile, content: memoryview, open_file: OpenFile) -> None:
    path, file_state, is_log, _ = file
    with opened(path, file_state, open_file) as descriptor:
        done = 0
        while done < file_state.size:
            count = os.preadv(descriptor, [content[done:]], done)
            if not count:
                raise ChangedError(f"{path} became shorter while it was being read")
            done += count
        info = os.fstat(descriptor)
    check_unchanged(path, file_state, info, is_log=is_log)


def check_unchanged(
    path: str, file_state: FileState, info: os.stat_result, *, is_log: bool
) -> None:
    """Raise ChangedError if a file differs from its recorded state; a log may have grown."""
    if is_log and info.st_size >= file_state.size:
        return
    if (info.st_size, info.st_mtime_ns) != (file_state.size, file_state.mtime_ns):
        raise ChangedError(f"{path} was written to while it was being read")
