"""Comparison of a save with its predecessors, to tell whether it is complete. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.checkpoint.layouts import TRACKERS, Flaw, tracked_number
from runctl.checkpoint.save_groups import Place, place_of

# What a save may lack: a best model is not written each time.
OPTIONAL = re.compile(
    r"best|te?mp|partial|\.part\b|writing|incomplete|lock|\.swp$|~$|tfevents|\.log$|(?:^|/)\.(?!metadata)",
    re.IGNORECASE,
)
# A file with such a name is useless if it is empty.
NEVER_EMPTY = re.compile(
    r"\.(?:pt|pth|ckpt|bin|safetensors|npz|npy|h5|hdf5|keras|pkl|pickle|joblib|json|msgpack|distcp|"
    r"model|weights|params|states?|parquet|onnx|gguf|pb|index|zip|tar|gz|ubj|cbm|data-\d+-of-\d+)$",
    re.IGNORECASE,
)
# A save that lacks more than this is in progress; there is no need to name the rest.
MAX_MISSING_NAMED = 20

Members = dict[str, FileState]


@dataclass(frozen=True)
class Save:
    """A numbered save: its files by their names, with `#` for the number."""

    parent: str
    number: int
    roots: set[str] = field(default_factory=set)
    members: Members = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, place: Place, file_state: FileState) -> None:
        """Record one of its files."""
        self.roots.add(place.root)
        self.members[place.member] = file_state
        self.paths[place.member] = path

    @property
    def shown(self) -> str:
        """Its name in messages."""
        path = next(iter(self.paths.values()))
        below = self.parent.count("/") + 1 if self.parent else 0
        return "/".join(path.split("/")[: below + 1])


def saves_in(folder_state: FolderState, parents: Iterable[str]) -> dict[str, Save]:
    """Return the saves in some folders by their names."""
    wanted = set(parents)
    saves: dict[str, Save] = {}
    for path, file_state in folder_state.items():
        if file_state.kind != "dir":
            place = place_of(path)
            if place.number is not None and place.parent in wanted:
                save = saves.setdefault(place.save, Save(place.parent, place.number))
                save.add(path, place, file_state)
    return saves


class Series:
    """The saves of some folders, as they are now and in the last checkpoint.

    `remembered` is what complete saves consisted of, by folder and root, for when none is left.
    """

    def __init__(
        self,
        folder_state: FolderState,
        previous: FolderState,
        fresh: Iterable[str],
        remembered: Mapping[tuple[str, str], frozenset[str]],
    ) -> None:
        places = [place_of(path) for path in fresh]
        self.fresh = {place.save for place in places if place.number is not None}
        parents = {place.parent for place in places if place.number is not None}
        self.now = saves_in(folder_state, parents)
        self.before = saves_in(previous, parents)
        self._remembered = remembered
        self._view = folder_state

    def flaws(self, text: Callable[[str], str]) -> Iterator[Flaw]:
        """Yield what changed saves lack, compared with their predecessors.

        Those are the saves in the last checkpoint, and those that were followed by another since
        then.
        """
        passed: dict[str, Save] = {}
        for name, save in sorted(self.now.items(), key=lambda item: item[1].number):
            if name in self.fresh:
                earlier = [
                    candidate
                    for other, candidate in {**passed, **self.before}.items()
                    if other != name
                    and candidate.parent == save.parent
                    and candidate.roots & save.roots
                ]
                flaws = [*self._missing(save, earlier), *self._emptied(save, earlier)]
                yield from flaws
                yield from self._not_tracked(save, earlier, text)
                if flaws:
                    continue
            passed[name] = save

    def _missing(self, save: Save, earlier: list[Save]) -> Iterator[Flaw]:
        missing = sorted(self._expected(save, earlier) - save.members.keys())
        for member in missing[:MAX_MISSING_NAMED]:
            having = [
                known.number
                for known in (*self.now.values(), *self.before.values())
                if known.parent == save.parent and member in known.members
            ]
            lacking = member.rpartition("/")[2].replace("#", str(save.number))
            yield Flaw(
                next(iter(save.paths.values())),
                f"{save.shown} has no {lacking}, unlike the previous saves",
                about=f"{save.parent}\0{member}",
                in_series=True,
                seen_in=max(having, default=-1),
            )

    def _expected(self, save: Save, earlier: list[Save]) -> frozenset[str]:
        if earlier:
            return frozenset.intersection(*(expected_of(predecessor) for predecessor in earlier))
        known = [self._remembered.get((save.parent, root), frozenset()) for root in save.roots]
        return frozenset().union(*known)

    def _emptied(self, save: Save, earlier: list[Save]) -> Iterator[Flaw]:
        for member, file_state in save.members.items():
            theirs = [
                predecessor.members[member]
                for predecessor in earlier
                if member in predecessor.members
            ]
            if is_empty(file_state) and theirs and not any(is_empty(other) for other in theirs):
                path = save.paths[member]
                reason = f"{path} is empty, unlike in the previous saves"
                yield Flaw(path, reason, about=f"{path} is empty")

    def _not_tracked(
        self, save: Save, earlier: list[Save], text: Callable[[str], str]
    ) -> Iterator[Flaw]:
        """Compare with a file that has named each save so far once it was complete."""
        below = [predecessor.number for predecessor in earlier if predecessor.number < save.number]
        for tracker in TRACKERS if below else ():
            path = f"{save.parent}/{tracker}" if save.parent else tracker
            if path in self._view and tracked_number(text(path)) == max(below):
                yield Flaw(
                    next(iter(save.paths.values())),
                    f"{path} does not name {save.shown} yet",
                    about=path,
                    in_series=True,
                    seen_in=max(below),
                )


def expected_of(save: Save) -> frozenset[str]:
    """Return what other saves of the series have and this one should have, too."""
    return frozenset(
        member
        for member, file_state in save.members.items()
        if not is_empty(file_state) and not OPTIONAL.search(member)
    )


def is_empty(file_state: FileState) -> bool:
    """Return whether it is a file without content."""
    return file_state.kind == "file" and file_state.size == 0


def flaws_without_number(
    folder_state: FolderState, previous: FolderState, fresh: Iterable[str]
) -> Iterator[Flaw]:
    """Yield what is missing or empty where a program overwrites its files at each save."""
    folders = set()
    for path in fresh:
        file_state, before = folder_state[path], previous.get(path)
        if place_of(path).number is None:
            folders.add(path.rpartition("/")[0])
        if not is_empty(file_state):
            continue
        if before is not None and not is_empty(before):
            yield Flaw(path, f"{path} is empty, unlike before", about=f"{path} is empty")
        elif before is None and NEVER_EMPTY.search(path) and not OPTIONAL.search(path):
            yield Flaw(path, f"{path} is empty", about=f"{path} is empty")
    if folders:
        yield from _removed(folder_state, previous, folders)


def _removed(folder_state: FolderState, previous: FolderState, folders: set[str]) -> Iterator[Flaw]:
    """Yield what was removed from a folder to which other files were written since."""
    gone = [
        path
        for path, file_state in previous.items()
        if path not in folder_state
        and file_state.kind == "file"
        and file_state.size
        and path.rpartition("/")[0] in folders
        and place_of(path).number is None
        and not OPTIONAL.search(path)
    ]
    if not gone:
        return
    inodes = {file_state.inode for file_state in folder_state.values()}
    new = {place_of(path).member for path in folder_state.keys() - previous.keys()}
    for path in sorted(gone)[:MAX_MISSING_NAMED]:
        # Neither renamed nor replaced by another of its kind, such as best_0.95.pt by best_0.97.pt.
        if previous[path].inode not in inodes and place_of(path).member not in new:
            reason = f"{path} was removed and has not been written again"
            yield Flaw(path, reason, about=f"{path} is missing")
