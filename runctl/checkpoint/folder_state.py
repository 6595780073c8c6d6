"""What a look at a checkpoint folder finds."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from runctl.model.errors import CheckpointError
from runctl.model.manifest_rules import MAX_DEPTH

# A look at more names than this would take the agent's memory and a core for itself.
MAX_NAMES = 200_000


@dataclass(frozen=True, slots=True)
class FileState:
    """One file, folder or symbolic link, as a look at the folder found it."""

    kind: str
    mode: int
    mtime_ns: int
    size: int = 0
    inode: tuple[int, int] = (0, 0)
    target: str = ""


FolderState = dict[str, FileState]


def look(folder: Path, before: FolderState | None = None, *, most: int = MAX_NAMES) -> FolderState:
    """Return everything below `folder` by its relative path; what vanishes meanwhile is skipped.

    What is as it was in `before` shares its memory with it. Raises CheckpointError where there are
    more names than `most`, or deeper folders than a manifest may have.
    """
    view: FolderState = {}
    known = {} if before is None else before
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            found = os.scandir(folder / below)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with found:
            for item in found:
                path = f"{below}/{item.name}" if below else item.name
                try:
                    seen = _seen(item)
                except FileNotFoundError:
                    continue
                if seen is not None:
                    old = known.get(path)
                    view[path] = old if old == seen and old is not None else seen
                    if seen.kind == "dir":
                        _check_depth(folder, path)
                        pending.append(path)
            if len(view) > most:
                raise CheckpointError(
                    f"{folder} holds more than {most:,} files, which is more than can be watched; "
                    "pack small files into archives, or keep them outside of the checkpoint folder"
                )
    return view


def _check_depth(folder: Path, path: str) -> None:
    if path.count("/") >= MAX_DEPTH - 1:  # what lies in it could not be restored
        raise CheckpointError(
            f"{folder} has folders in more than {MAX_DEPTH - 1} levels, which is more than can be "
            "restored; keep those outside of the checkpoint folder"
        )


def _seen(item: "os.DirEntry[str]") -> FileState | None:
    # Not item.stat(): it may be answered from what the directory held a moment ago.
    info = os.lstat(item.path)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode):
        return FileState("link", mode, info.st_mtime_ns, target=str(Path(item.path).readlink()))
    if stat.S_ISDIR(info.st_mode):
        return FileState("dir", mode, info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        inode = (info.st_dev, info.st_ino)
        return FileState("file", mode, info.st_mtime_ns, info.st_size, inode)
    return None  # a socket or a pipe is no part of a checkpoint
