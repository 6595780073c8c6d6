"""Pinning: the files of a snapshot are kept unchanged while they are uploaded."""

import contextlib
import os
import shutil
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runctl.beneath.folder import Folder
from runctl.checkpoint.pinned_files import copy_file, open_pinned, pin_name
from runctl.checkpoint.predecessors import OPTIONAL
from runctl.checkpoint.save_groups import NO_NUMBER, save_of
from runctl.checkpoint.settling import ChangedError, Contents, FileState, FolderState, newest_saves

MAX_COPY_BYTES = 512 * 1024 * 1024
# Reading a file of this size is faster than creating and removing a hard link.
TINY_BYTES = 4 * 1024
MAX_CONTENT_BYTES = 16 * 1024 * 1024


def pin(
    folder: Path,
    folder_state: FolderState,
    pinned: Path,
    *,
    recently_modified: frozenset[str] = frozenset(),
    held: Sequence[Path] = (),
    contents: MutableMapping[tuple[int, int], bytes] | None = None,
) -> FolderState:
    """Pin the files of `folder_state` by hard links below `pinned`, one per inode.

    A trainer may then rename and remove files while we upload. What was `recently_modified` is
    copied, which is faster than any upload: a hard link does not help against writing in place.
    Files that the folders `held` hold already, under their `pin_name`, come from there. If
    `contents` is given, tiny files are read into it instead. Returns the state without saves of
    which a file has vanished; raises ChangedError if a file differs from its recorded state.
    """
    shutil.rmtree(pinned, ignore_errors=True)
    pinned.mkdir(parents=True)
    reader = None if contents is None else _TinyFiles(contents)
    try:
        with Folder.opened(folder) as opened:
            return _Pins(opened, pinned, held, reader).hold(folder_state, recently_modified)
    except NotADirectoryError as exc:
        shutil.rmtree(pinned, ignore_errors=True)
        raise ChangedError(f"{folder} was replaced while it was being pinned") from exc
    except OSError:
        # Half a copy on a full disk would take space that the trainer needs for its own save.
        shutil.rmtree(pinned, ignore_errors=True)
        raise


def read_pinned(
    folder_state: FolderState, contents: Contents, pinned: Path, path: str, offset: int, size: int
) -> bytes:
    """Return some bytes of a pinned file, or none if it cannot be read."""
    content = contents.get(folder_state[path].inode)
    if content is not None:
        return content[offset : offset + size]
    try:
        descriptor = open_pinned(pinned, folder_state[path])
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def link_early(folder: Path, folder_state: FolderState, paths: Iterable[str], place: Path) -> None:
    """Link files as soon as they are seen, so that they can be judged later.

    A program that saves many times a second may remove them before it is known which of them are
    open.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with contextlib.suppress(OSError), Folder.opened(folder) as opened:
        for path in paths:
            file_state = folder_state.get(path)
            if file_state is not None and file_state.kind == "file":
                above, _, name = path.rpartition("/")
                target = f"{place}/{pin_name(file_state)}"
                with contextlib.suppress(OSError):
                    os.link(name, target, src_dir_fd=opened.at(above), follow_symlinks=False)


def describe_missing_links(folder: Path, pins: Path) -> str:
    """Return a warning if the checkpoint folder is on another file system, or ""."""
    pins.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev == pins.stat().st_dev:
        return ""
    return (
        f"{folder} is on another file system than {pins}, so hard links are not possible: files "
        "are read in place, and a file that changes meanwhile is saved with the next snapshot"
    )


class _TinyFiles:
    """Reads tiny files as they are pinned, as long as the memory for them lasts."""

    def __init__(self, contents: MutableMapping[tuple[int, int], bytes]) -> None:
        self._contents = contents
        self._left = MAX_CONTENT_BYTES

    def has(self, file_state: FileState) -> bool:
        """Return whether the file has been read."""
        return file_state.inode in self._contents

    def read(self, source: "_Source", file_state: FileState) -> bool:
        """Read a file that matches its recorded state; return False for any other."""
        if not 0 < file_state.size <= min(TINY_BYTES, self._left):
            return False
        try:
            descriptor = source.open()
        except OSError:
            return False
        try:
            content = os.read(descriptor, file_state.size)
            info = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        found = ((info.st_dev, info.st_ino), info.st_size, info.st_mtime_ns)
        if len(content) != file_state.size or found != (
            file_state.inode,
            file_state.size,
            file_state.mtime_ns,
        ):
            return False
        self._contents[file_state.inode] = content
        self._left -= file_state.size
        return True


class _Source(NamedTuple):
    """A file in the trainer's folder, or one that we hold already; `path` is absolute."""

    path: str
    folder: Folder | None = None
    name: str = ""
    at: int | None = None

    def open(self) -> int:
        if self.folder is None or self.at is None:
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self.folder.open_at(self.name, self.at)


class _Pins:
    """Files of a folder that are about to be held at `place`."""

    def __init__(
        self, folder: Folder, place: Path, held: Sequence[Path], tiny: _TinyFiles | None
    ) -> None:
        self._folder = folder
        self._place = place
        self._held = {
            item.name: item.path for each in held if each.is_dir() for item in os.scandir(each)
        }
        self._tiny = tiny

    def hold(self, folder_state: FolderState, recently_modified: frozenset[str]) -> FolderState:
        names: set[str] = set()
        vanished = []
        # Links first, since they take no time: files may vanish while others are copied.
        for path, file_state in folder_state.items():
            if file_state.kind == "file":
                name = pin_name(file_state)
                if name not in names and not self._hold_one(path, name, file_state):
                    vanished.append(path)
                    continue
                names.add(name)
        for path in recently_modified & folder_state.keys():
            file_state = folder_state[path]
            if self._tiny is not None and self._tiny.has(file_state):
                continue
            is_there = file_state.kind == "file" and path not in vanished
            if is_there and not self._copy_if_written(path, file_state):
                vanished.append(path)
        return _without_vanished(folder_state, vanished)

    def _hold_one(self, path: str, pin: str, file_state: FileState) -> bool:
        """Read or pin a file; return whether it still exists."""
        try:
            source = self._source(path, pin)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if self._tiny is not None and self._tiny.read(source, file_state):
            return True
        return _link(path, source, f"{self._place}/{pin}", file_state)

    def _source(self, path: str, pin: str) -> _Source:
        if pin in self._held:
            return _Source(self._held[pin])
        above, _, name = path.rpartition("/")
        at = self._folder.at(above)
        return _Source(f"{self._folder.path}/{path}", self._folder, name, at)

    def _copy_if_written(self, path: str, file_state: FileState) -> bool:
        """Replace the link to a file that may be written to by a copy; return whether it exists.

        A file that has no other name than ours cannot be overwritten, and needs no copy.
        """
        pin = pin_name(file_state)
        own_links = 1 + (pin in self._held)
        place = f"{self._place}/{pin}"
        try:
            source = open_pinned(self._place, file_state)
        except FileNotFoundError:
            return False
        try:
            info = os.fstat(source)
            is_written = info.st_nlink > own_links or os.path.islink(place)
            if file_state.size <= MAX_COPY_BYTES and is_written:
                copy_file(source, f"{place}.copy", file_state.size)
                info = os.fstat(source)
                os.utime(f"{place}.copy", ns=(file_state.mtime_ns, file_state.mtime_ns))
                Path(f"{place}.copy").replace(place)
        finally:
            os.close(source)
        if (info.st_size, info.st_mtime_ns) == (file_state.size, file_state.mtime_ns):
            return True
        if self._exists(path):
            raise ChangedError(f"{path} was written to while it was being copied")
        return False

    def _exists(self, path: str) -> bool:
        try:
            with self._folder.parent(path) as (at, name):
                os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True


def _without_vanished(folder_state: FolderState, vanished: Iterable[str]) -> FolderState:
    """Return the folder state without old saves that were being removed.

    The newest save, and whatever is overwritten at each save, must be complete; a temporary file
    that was renamed affects no other.
    """
    gone = set(vanished)
    if not gone:
        return folder_state
    saves = {save_of(path) for path in gone if not OPTIONAL.search(path)}
    left = {
        path: file_state
        for path, file_state in folder_state.items()
        if path not in gone and (save_of(path) == NO_NUMBER or save_of(path) not in saves)
    }
    needed = newest_saves(folder_state)
    if not any(
        file_state.kind == "file" and save_of(path) == NO_NUMBER
        for path, file_state in left.items()
    ):
        needed -= {NO_NUMBER}  # what remains is consistent
    if saves & needed:
        raise ChangedError(f"{min(gone)} was removed while it was being pinned")
    return left


def _link(path: str, source: _Source, target: str, file_state: FileState) -> bool:
    """Pin a file; return whether it still exists."""
    name = source.name or source.path
    try:
        os.link(name, target, src_dir_fd=source.at, follow_symlinks=False)
        info = os.lstat(target)
    except FileNotFoundError:
        return False
    except OSError:
        # Another file system, or one without hard links: we can only hope that it stays.
        os.symlink(os.path.abspath(source.path), target)
        try:
            info = os.stat(name, dir_fd=source.at, follow_symlinks=False)
        except FileNotFoundError:
            os.unlink(target)
            return False
    if (info.st_dev, info.st_ino) != file_state.inode:
        os.unlink(target)
        raise ChangedError(f"{path} was replaced while it was being pinned")
    return True
