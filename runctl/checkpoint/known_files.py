"""Files whose content is stored already, so that it is not sent again."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from runctl.checkpoint.settling import FileState
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part

# Files up to this size go into bundles.
SMALL_BYTES = 256 * 1024

_Identity = tuple[tuple[int, int], int, int]


class Stored(NamedTuple):
    """Where the content of a file is stored: in parts of its own, or in a bundle at an offset.

    `sha256` is the digest of a small file's content.
    """

    parts: tuple[Part, ...]
    offset: int | None = None
    sha256: str = ""

    @classmethod
    def of(cls, entry: Entry) -> "Stored":
        """Return where a checkpoint stores a file."""
        if entry.offset is not None:
            return cls(entry.parts, entry.offset, entry.sha256)
        if is_small(entry.size_bytes) and len(entry.parts) == 1:  # alone in its part
            return cls(entry.parts, None, entry.parts[0].sha256)
        return cls(entry.parts)


class KnownFiles:
    """The files of the last snapshot, by their identity and by their contents.

    Those of the snapshot before it count, too: a file may have been left out once.
    """

    def __init__(self) -> None:
        self._files: dict[_Identity, Stored] = {}
        self._before: dict[_Identity, Stored] = {}
        self._contents: dict[str, Stored] = {}

    @property
    def contents(self) -> Mapping[str, Stored]:
        """The small files of the last snapshot, by digest."""
        return self._contents

    def find(self, file_state: FileState) -> Stored | None:
        """Return where an unchanged file is stored, or None if it is unknown."""
        identity = _identity(file_state)
        return self._files.get(identity) or self._before.get(identity)

    def note(self, file_state: FileState, stored: Stored) -> None:
        """Remember a file for another try of the same snapshot."""
        self._files[_identity(file_state)] = stored

    def note_snapshot(self, files: Iterable[tuple[FileState, Stored]]) -> None:
        """Remember a whole snapshot, and forget what only older ones had."""
        self._before, self._files, self._contents = self._files, {}, {}
        for file_state, stored in files:
            self._files[_identity(file_state)] = stored
            if stored.sha256:
                self._contents[stored.sha256] = stored

    def note_restored(self, folder_state: Mapping[str, FileState], manifest: Manifest) -> None:
        """Remember a checkpoint's contents, and which of its files are in the folder already."""
        files = [entry for entry in manifest.entries if entry.kind == "file"]
        self.note_snapshot(
            (file_state, Stored.of(entry))
            for entry in files
            if (file_state := folder_state.get(entry.path)) is not None
            and file_state.size == entry.size_bytes
        )
        for stored in map(Stored.of, files):
            if stored.sha256:
                self._contents[stored.sha256] = stored


def is_small(size_bytes: int) -> bool:
    """Return whether a file of this size goes into a bundle; an empty one needs no part."""
    return 0 < size_bytes <= SMALL_BYTES


def _identity(file_state: FileState) -> _Identity:
    return file_state.inode, file_state.size, file_state.mtime_ns
