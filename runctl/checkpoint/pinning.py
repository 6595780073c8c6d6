"""Holding on to the files of a snapshot while they are uploaded."""

import contextlib
import os
import shutil
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path

from runctl.checkpoint.predecessors import OPTIONAL
from runctl.checkpoint.save_groups import NO_NUMBER, save_of
from runctl.checkpoint.settling import ChangedError, Contents, FileState, FolderState, newest_saves

MAX_COPY_BYTES = 512 * 1024 * 1024
# Reading a file of this size takes less time than making a hard link and removing it.
TINY_BYTES = 4 * 1024
MAX_CONTENT_BYTES = 16 * 1024 * 1024


def pin(
    folder: Path,
    view: FolderState,
    pinned: Path,
    *,
    recently_modified: frozenset[str] = frozenset(),
    held: Sequence[Path] = (),
    contents: MutableMapping[tuple[int, int], bytes] | None = None,
) -> FolderState:
    """Hold on to the files of `view` by hard links below `pinned`, one an inode.

    So a trainer may rename and remove what it likes while we upload. What is `recently_modified` is
    copied, which is faster than any upload: a hard link does not help against writing in
    place. Files that the folders `held` have already, by their `pin_name`, come from there.
    If `contents` is given, tiny files are read into it instead. Returns the view without the
    saves of which a file has vanished; raises ChangedError when a file is no longer as it was seen.
    """
    shutil.rmtree(pinned, ignore_errors=True)
    pinned.mkdir(parents=True)
    reader = None if contents is None else _TinyFiles(contents)
    try:
        return _hold(folder, view, pinned, recently_modified, held, reader)
    except OSError:
        # Half a copy on a full disk would take the space that the trainer needs for its own save.
        shutil.rmtree(pinned, ignore_errors=True)
        raise


def read_pinned(
    view: FolderState, contents: Contents, pinned: Path, path: str, offset: int, size: int
) -> bytes:
    """Return some bytes of a file that is held on to, none when it cannot be read."""
    content = contents.get(view[path].inode)
    if content is not None:
        return content[offset : offset + size]
    try:
        with (pinned / pin_name(view[path])).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    except OSError:
        return b""


def hold_on_to(folder: Path, view: FolderState, paths: Iterable[str], place: Path) -> None:
    """Link files at the moment they are seen, so that they can be judged in peace.

    A program that saves many times a second has removed them by the time that it is known which of
    them are open.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in paths:
        seen = view.get(path)
        if seen is not None and seen.kind == "file":
            with contextlib.suppress(OSError):
                os.link(f"{folder}/{path}", f"{place}/{pin_name(seen)}", follow_symlinks=False)


def tell_where_links_fail(folder: Path, pins: Path) -> str:
    """Say what it means that the checkpoint folder is on another file system, or nothing."""
    pins.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev == pins.stat().st_dev:
        return ""
    return (
        f"{folder} is on another file system than {pins}, so hard links are not possible: files "
        "are read where they lie, and one that changes meanwhile is taken with the next snapshot"
    )


class _TinyFiles:
    """Reads tiny files while they are pinned, as far as the memory for them lasts."""

    def __init__(self, contents: MutableMapping[tuple[int, int], bytes]) -> None:
        self._contents = contents
        self._left = MAX_CONTENT_BYTES

    def has(self, seen: FileState) -> bool:
        """Return whether the file has been read."""
        return seen.inode in self._contents

    def read(self, source: str, seen: FileState) -> bool:
        """Read a file that is as it was seen; return False for any other, which needs a link."""
        if not 0 < seen.size <= min(TINY_BYTES, self._left):
            return False
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            content = os.read(descriptor, seen.size)
            info = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        found = ((info.st_dev, info.st_ino), info.st_size, info.st_mtime_ns)
        if len(content) != seen.size or found != (seen.inode, seen.size, seen.mtime_ns):
            return False
        self._contents[seen.inode] = content
        self._left -= seen.size
        return True


def _hold(
    folder: Path,
    view: FolderState,
    pinned: Path,
    recently_modified: frozenset[str],
    held: Sequence[Path],
    tiny: _TinyFiles | None,
) -> FolderState:
    places = {name: f"{place}/{name}" for place in held if place.is_dir() for name in _names(place)}
    names: set[str] = set()
    vanished = []
    # First a link to each, which takes no time: what is copied meanwhile may be gone at the end.
    for path, seen in view.items():
        if seen.kind == "file":
            name = pin_name(seen)
            if name not in names:
                source = places.get(name, f"{folder}/{path}")
                is_held = tiny is not None and tiny.read(source, seen)
                if not is_held and not _link(path, source, f"{pinned}/{name}", seen):
                    vanished.append(path)
                    continue
            names.add(name)
    for path in recently_modified & view.keys():
        seen = view[path]
        if tiny is not None and tiny.has(seen):
            continue
        if seen.kind == "file" and path not in vanished:
            name = pin_name(seen)
            own_links = 1 + (name in places)
            if not _hold_still(f"{folder}/{path}", f"{pinned}/{name}", seen, own_links):
                vanished.append(path)
    return _without_vanished(view, vanished)


def _names(place: Path) -> list[str]:
    return [item.name for item in os.scandir(place)]


def _without_vanished(view: FolderState, vanished: Iterable[str]) -> FolderState:
    """Return the view without old saves that were being removed.

    The newest save, and what is overwritten at each save, must be there with all their files; a
    temporary file that was renamed takes nothing along.
    """
    gone = set(vanished)
    if not gone:
        return view
    saves = {save_of(path) for path in gone if not OPTIONAL.search(path)}
    left = {
        path: seen
        for path, seen in view.items()
        if path not in gone and (save_of(path) == NO_NUMBER or save_of(path) not in saves)
    }
    needed = newest_saves(view)
    if not any(seen.kind == "file" and save_of(path) == NO_NUMBER for path, seen in left.items()):
        needed -= {NO_NUMBER}  # nothing is left that would not fit
    if saves & needed:
        raise ChangedError(f"{min(gone)} was removed while it was looked at")
    return left


def _link(path: str, source: str, target: str, seen: FileState) -> bool:
    """Hold on to a file; whether it is still there."""
    try:
        os.link(source, target, follow_symlinks=False)
        info = os.stat(target)
    except FileNotFoundError:
        return False
    except OSError:
        # Another file system, or one without hard links: we can only hope it stays.
        os.symlink(os.path.abspath(source), target)
        try:
            info = os.stat(source)
        except FileNotFoundError:
            os.unlink(target)
            return False
    if (info.st_dev, info.st_ino) != seen.inode:
        os.unlink(target)
        raise ChangedError(f"{path} was replaced while it was looked at")
    return True


def _hold_still(path: str, pinned: str, seen: FileState, own_links: int) -> bool:
    """Put a copy in the place of a link; whether the file is still there, if it was written to.

    A file that has no name any more but ours cannot be overwritten, and needs no copy.
    """
    try:
        info = os.stat(pinned)
        if seen.size <= MAX_COPY_BYTES and (info.st_nlink > own_links or os.path.islink(pinned)):
            copy = Path(f"{pinned}.copy")
            shutil.copyfile(pinned, copy)
            info = os.stat(pinned)
            os.utime(copy, ns=(seen.mtime_ns, seen.mtime_ns))
            copy.replace(pinned)
    except FileNotFoundError:
        return False
    if (info.st_size, info.st_mtime_ns) == (seen.size, seen.mtime_ns):
        return True
    if os.path.lexists(path):
        raise ChangedError(f"{path} was written to while it was copied")
    return False


def pin_name(seen: FileState) -> str:
    """Return the name by which a pinned file is held."""
    return f"{seen.inode[0]:x}-{seen.inode[1]:x}"
