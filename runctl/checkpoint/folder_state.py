"""The state of a checkpoint folder, as a scan finds it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

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

    What vanishes meanwhile is omitted. An entry that equals the one in `before` shares its memory.
    Raises CheckpointError if there are more names than `most`, or folders nested deeper than a
    manifest allows.
    """
    folder_state: FolderState = {}
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
                    file_state = _state_of(item)
                except FileNotFoundError:
                    continue
                if file_state is not None:
                    old = known.get(path)
                    folder_state[path] = (
                        old if old == file_state and old is not None else file_state
                    )
                    if file_state.kind == "dir":
                        _check_depth(folder, path)
                        pending.append(path)
            if len(folder_state) > most:
                raise CheckpointError(
                    f"{folder} holds more than {most:,} files, the most that can be watched; "
                    "pack small files into archives, or keep them outside the checkpoint folder"
                )
    return folder_state


def _check_depth(folder: Path, path: str) -> None:
    if path.count("/") >= MAX_DEPTH - 1:  # its content could not be restored
        raise CheckpointError(
            f"{folder} has folders nested in more than {MAX_DEPTH - 1} levels, the most that can "
            "be restored; keep those outside the checkpoint folder"
        )


def _state_of(item: "os.DirEntry[str]") -> FileState | None:
    # Not item.stat(): it may answer from a cached directory entry.
    info = os.lstat(item.path)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode):
        return FileState("link", mode, info.st_mtime_ns, target=str(Path(item.path).readlink()))
    if stat.S_ISDIR(info.st_mode):
        return FileState("dir", mode, info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        inode = (info.st_dev, info.st_ino)
        return FileState("file", mode, info.st_mtime_ns, info.st_size, inode)
    return None  # sockets and pipes do not belong in a checkpoint
