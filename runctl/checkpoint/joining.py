"""One checkpoint from the files of several nodes. Pure.

Each node has the files that its own ranks have saved. The node of rank 0 commits what it has itself
together with what the others have stored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.save_groups import place_of
from runctl.checkpoint.step_names import number_in
from runctl.checkpoint.torch_records import METADATA, RECORD
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry


@dataclass(frozen=True, kw_only=True)
class NodeFiles:
    """What is known of another node's files.

    `files` is how many it says it has, and `manifests` what it has stored, newest first. With
    `is_stored`, its program has ended and that is all of it; a node that `is_lost` may have had
    more. One that has not `answered` may have written files since its last report.
    """

    rank: int
    files: int = 0
    manifests: tuple[Manifest, ...] = ()
    is_stored: bool = False
    is_lost: bool = False
    has_answered: bool = True

    @property
    def is_over(self) -> bool:
        """Whether it stores nothing more."""
        return self.is_stored or self.is_lost

    def of_step(self, step: int | None) -> Manifest | None:
        """Return the manifest that belongs to a save: of the same step if possible."""
        alike = [manifest for manifest in self.manifests if manifest.step == step]
        return next(iter((*alike, *self.manifests)), None)

    def has_stored(self, step: int | None) -> bool:
        """Return whether it has stored its files of a save of this step, as far as steps say."""
        if not self.manifests:
            return not self.files
        if self.is_stored or step is None:
            return True
        return any(manifest.step is None or manifest.step >= step for manifest in self.manifests)


def waits_for(nodes: Iterable[NodeFiles], step: int | None) -> str:
    """Return which node's files are missing in a save of a step, or "" if none are."""
    for node in nodes:
        if node.files and not node.has_stored(step):
            return f"node {node.rank}'s part is missing"
        if not node.has_answered and not node.is_over:
            return f"node {node.rank} has not said which files it has"
    return ""


def join(own: Sequence[Entry], others: Sequence[Sequence[Entry]]) -> tuple[Entry, ...]:
    """Return the entries of all nodes, in the order of their paths.

    `others` are in the order of their ranks. Where several nodes have a path, the lowest rank's
    counts. Saves that the first node does not have any more, or not yet, are left out: only it
    decides which are kept.
    """
    joining = _Joining(own)
    for entries in others:
        joining.add(entries)
    return tuple(sorted(joining.entries.values(), key=lambda entry: entry.path))


class _Joining:
    def __init__(self, own: Sequence[Entry]) -> None:
        self.entries = {entry.path: entry for entry in own}
        self._folders = {folder for entry in own for folder in _folders_above(entry.path)}
        self._numbers: dict[str, set[int]] = {}
        self._described: set[str] = set()
        for entry in own:
            numbered = None if entry.kind == "dir" else _numbered(entry.path)
            if numbered is not None:
                self._numbers.setdefault(numbered[0], set()).add(numbered[1])
            folder, _, name = entry.path.rpartition("/")
            if METADATA.match(name):
                self._described.add(folder)
        self._newest = max((max(numbers) for numbers in self._numbers.values()), default=None)

    def add(self, entries: Sequence[Entry]) -> None:
        """Add what another node has."""
        theirs = {entry.path: entry for entry in entries}
        added: set[str] = set()
        for entry in entries:
            if entry.kind == "dir" or not self._is_wanted(entry.path) or self._conflicts(entry):
                continue
            # Its other name may be that of a lower rank's file.
            plain = _without_link(entry, theirs)
            if plain is not None:
                self.entries[entry.path] = plain
                added |= set(_folders_above(entry.path))
        self._folders |= added
        for path in added - self.entries.keys():
            if path in theirs and theirs[path].kind == "dir":
                self.entries[path] = theirs[path]

    def _is_wanted(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if RECORD.match(name) and folder not in self._described:
            return False
        numbered = _numbered(path)
        if numbered is None or self._newest is None:
            return True
        parent, number = numbered
        return (
            number in self._numbers[parent] if parent in self._numbers else number <= self._newest
        )

    def _conflicts(self, entry: Entry) -> bool:
        """Return whether it cannot be in one folder with what is there."""
        if entry.path in self.entries or entry.path in self._folders:
            return True
        above = (self.entries.get(folder) for folder in _folders_above(entry.path))
        return any(folder is not None and folder.kind != "dir" for folder in above)


def replaced_saves(flawed: Iterable[str], written: Iterable[str]) -> frozenset[str]:
    """Return the names of the saves that will stay incomplete, since a later one has followed.

    `flawed` are paths of incomplete saves, and `written` those of all saves that are new.
    """
    places = {place_of(path) for path in flawed}
    names = {place.save for place in places}
    newest: dict[tuple[str, str], int] = {}
    for place in map(place_of, written):
        if place.number is not None and place.save not in names:
            series = (place.parent, place.root)
            newest[series] = max(place.number, newest.get(series, -1))
    return frozenset(
        place.save
        for place in places
        if place.number is not None and place.number < newest.get((place.parent, place.root), -1)
    )


def own_files(folder_state: FolderState, given: FolderState) -> FolderState:
    """Return what a node has written itself: all but what it was restored with.

    Folders are included if there is something of its own in them.
    """
    written = {
        path: file_state
        for path, file_state in folder_state.items()
        if file_state.kind != "dir" and given.get(path) != file_state
    }
    folders = {folder for path in written for folder in _folders_above(path)}
    return {
        path: state for path, state in folder_state.items() if path in written or path in folders
    }


def states_of(entries: Iterable[Entry]) -> dict[str, FolderState]:
    """Return the files and links of a checkpoint by their folders and names."""
    found: dict[str, FolderState] = {}
    for entry in entries:
        if entry.kind != "dir":
            folder, _, name = entry.path.rpartition("/")
            found.setdefault(folder, {})[name] = FileState(
                entry.kind, entry.mode, entry.mtime_ns, entry.size_bytes
            )
    return found


def _numbered(path: str) -> tuple[str, int] | None:
    """Return the folder of the save that a path belongs to, and its step; None if none is named.

    Only where a word says what the number counts: others count ranks, in what each of them writes.
    """
    named, place = number_in(path), place_of(path)
    if named is None or named.step != place.number:
        return None
    return place.parent, place.number


def _without_link(entry: Entry, theirs: Mapping[str, Entry]) -> Entry | None:
    if entry.kind != "hard":
        return entry
    original = theirs.get(entry.target)
    return None if original is None else replace(original, path=entry.path)


def _folders_above(path: str) -> Iterator[str]:
    folder = path.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
