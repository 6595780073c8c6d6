"""Where the content of files is stored already, so that they are not sent again."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from runctl.checkpoint.settling import FileState
from runctl.model.checkpoint import Entry, Manifest, Part

# Files up to this size go into bundles.
SMALL_BYTES = 256 * 1024

_Identity = tuple[tuple[int, int], int, int]


class Stored(NamedTuple):
    """Where the content of a file is stored: in parts of its own, or in a bundle at an offset.

    `sha256` is that of a small file's content.
    """

    parts: tuple[Part, ...]
    offset: int | None = None
    sha256: str = ""

    @classmethod
    def of(cls, entry: Entry) -> "Stored":
        """Return where a checkpoint has a file."""
        if entry.offset is not None:
            return cls(entry.parts, entry.offset, entry.sha256)
        if is_small(entry.size_bytes) and len(entry.parts) == 1:  # alone in its part
            return cls(entry.parts, None, entry.parts[0].sha256)
        return cls(entry.parts)


class KnownFiles:
    """The files of the last snapshot, by what identifies them and by their contents.

    Those of the snapshot before it count as well: a file may have been left out once.
    """

    def __init__(self) -> None:
        self._files: dict[_Identity, Stored] = {}
        self._before: dict[_Identity, Stored] = {}
        self._contents: dict[str, Stored] = {}

    @property
    def contents(self) -> Mapping[str, Stored]:
        """The small files of the last snapshot, by digest."""
        return self._contents

    def find(self, seen: FileState) -> Stored | None:
        """Return where a file is stored that has not changed since; None when it is not known."""
        identity = _identity(seen)
        return self._files.get(identity) or self._before.get(identity)

    def note(self, seen: FileState, stored: Stored) -> None:
        """Keep it for another try of the same snapshot."""
        self._files[_identity(seen)] = stored

    def note_snapshot(self, files: Iterable[tuple[FileState, Stored]]) -> None:
        """Keep a whole snapshot; what only older ones had is forgotten."""
        self._before, self._files, self._contents = self._files, {}, {}
        for seen, stored in files:
            self._files[_identity(seen)] = stored
            if stored.sha256:
                self._contents[stored.sha256] = stored

    def note_restored(self, view: Mapping[str, FileState], manifest: Manifest) -> None:
        """Keep a checkpoint's contents, and those files that are in the folder in `view` by now."""
        files = [entry for entry in manifest.entries if entry.kind == "file"]
        self.note_snapshot(
            (seen, Stored.of(entry))
            for entry in files
            if (seen := view.get(entry.path)) is not None and seen.size == entry.size_bytes
        )
        for stored in map(Stored.of, files):
            if stored.sha256:
                self._contents[stored.sha256] = stored


def is_small(size_bytes: int) -> bool:
    """Whether a file of this size goes into a bundle; an empty one needs no part."""
    return 0 < size_bytes <= SMALL_BYTES


def _identity(seen: FileState) -> _Identity:
    return seen.inode, seen.size, seen.mtime_ns
