"""The state of a checkpoint folder, as a scan finds it."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.beneath.folder import Folder
from runctl.model.errors import CheckpointError
from runctl.model.manifest_rules import MAX_DEPTH

# A scan of more names than this would occupy a core and too much of the agent's memory.
MAX_NAMES = 200_000


@dataclass(frozen=True, slots=True)
class FileState:
    """A file, folder or symbolic link, as a scan of the folder found it."""

    kind: str
    mode: int
    mtime_ns: int
    size: int = 0
    inode: tuple[int, int] = (0, 0)
    target: str = ""


FolderState = dict[str, FileState]


def scan_folder(
    folder: Path, before: FolderState | None = None, *, most: int = MAX_NAMES
) -> FolderState:
    """Return the state of everything below `folder`, by relative path.

    What vanishes meanwhile is omitted, and no link is followed. Hard links to files of users other
    than the folder's owner are omitted, too, unless all their names are in the folder, as those of
    a checkpoint that was just restored, or `before` has the same file. An entry that equals the one
    in `before` shares its memory.
    Raises CheckpointError if there are more names than `most`, or folders nested deeper than a
    manifest allows.
    """
    try:
        with Folder.opened(folder) as opened:
            return _scan(opened, {} if before is None else before, most)
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _scan(folder: Folder, known: FolderState, most: int) -> FolderState:
    folder_state: FolderState = {}
    suspects: dict[tuple[int, int], dict[str, tuple[FileState, int]]] = {}
    pending = [""]
    while pending:
        below = pending.pop()
        for name, info, at in _content(folder, below):
            path = f"{below}/{name}" if below else name
            old = known.get(path)
            file_state = _state_of(info, name, at)
            if file_state is None:
                continue
            if folder.is_foreign(info) and (old is None or old.inode != file_state.inode):
                suspects.setdefault(_inode(info), {})[path] = file_state, info.st_nlink
                continue
            folder_state[path] = old if old is not None and old == file_state else file_state
            if file_state.kind == "dir":
                _check_depth(folder.path, path)
                pending.append(path)
        if len(folder_state) > most:
            raise CheckpointError(
                f"{folder.path} holds more than {most:,} files, the most that can be watched; "
                "pack small files into archives, or keep them outside the checkpoint folder"
            )
    for names in suspects.values():
        if all(len(names) >= links for _, links in names.values()):
            folder_state.update({path: file_state for path, (file_state, _) in names.items()})
    return folder_state


def _content(folder: Folder, below: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield the names in a folder, what each is, and the folder's descriptor."""
    try:
        at = folder.at(below)
    except (FileNotFoundError, NotADirectoryError):
        return
    with os.scandir(at) as found:
        for item in found:
            try:
                # Not item.stat(): it may answer from a cached directory entry.
                info = os.stat(item.name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield item.name, info, at


def _check_depth(folder: str, path: str) -> None:
    if path.count("/") >= MAX_DEPTH - 1:  # its content could not be restored
        raise CheckpointError(
            f"{folder} has folders nested in more than {MAX_DEPTH - 1} levels, the most that can "
            "be restored; keep those outside the checkpoint folder"
        )


def _state_of(info: os.stat_result, name: str, at: int) -> FileState | None:
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISREG(info.st_mode):
        return FileState("file", mode, info.st_mtime_ns, info.st_size, _inode(info))
    if stat.S_ISDIR(info.st_mode):
        return FileState("dir", mode, info.st_mtime_ns)
    if stat.S_ISLNK(info.st_mode):
        try:
            target = os.readlink(name, dir_fd=at)
        except OSError as exc:
            if exc.errno in {errno.EINVAL, errno.ENOENT}:  # it was a link a moment ago
                return None
            raise
        return FileState("link", mode, info.st_mtime_ns, target=target)
    return None  # sockets and pipes do not belong in a checkpoint


def _inode(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
