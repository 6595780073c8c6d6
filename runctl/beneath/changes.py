"""Changes in folders that somebody else may write to at the same time."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from runctl.beneath.folder import Folder, walk
from runctl.beneath.paths import (
    FOLDER_FLAGS,
    REPLACED,
    open_folder,
    open_regular,
)

# How often a folder is emptied while somebody else adds to it.
MAX_TRIES = 3


def rewrite(path: Path, content: bytes) -> None:
    """Write a file anew that somebody else may replace; OSError if it is not a plain file.

    It keeps its inode: a container may have it mounted.
    """
    at = open_folder(path.parent)
    try:
        descriptor = open_regular(path.name, at, os.O_WRONLY | os.O_CREAT, 0o644)
    finally:
        os.close(at)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, "it has another name", str(path))
        os.ftruncate(descriptor, 0)
        while content:  # a file system that fills up accepts only a part of it
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def give(path: Path, uid: int, gid: int) -> None:
    """Let a user own a file, or a folder with everything in it.

    Links keep their owners, which do not matter. So do files with names outside of the folder,
    which may be another user's.
    """
    try:
        descriptor = open_folder(path)
    except NotADirectoryError:
        _give_file(path, uid, gid)
        return
    folder = Folder(descriptor, str(path))
    try:
        os.fchown(folder.descriptor, uid, gid)
        names = Counter(found.identity for found in walk(folder) if found.is_file)
        for found in walk(folder):
            if found.is_folder:
                _give(_folder_in(found.name, found.at), uid, gid, most_names=None)
            elif found.is_file:
                _give(_file_in(found.name, found.at), uid, gid, most_names=names[found.identity])
    finally:
        folder.close()


def _give_file(path: Path, uid: int, gid: int) -> None:
    at = open_folder(path.parent)
    try:
        _give(_file_in(path.name, at), uid, gid, most_names=1)
    finally:
        os.close(at)


def _give(descriptor: int | None, uid: int, gid: int, *, most_names: int | None) -> None:
    if descriptor is None:
        return
    try:
        if most_names is None or os.fstat(descriptor).st_nlink <= most_names:
            os.fchown(descriptor, uid, gid)
    finally:
        os.close(descriptor)


def _file_in(name: str, at: int) -> int | None:
    try:
        return open_regular(name, at)
    except FileNotFoundError:
        return None


def _folder_in(name: str, at: int) -> int | None:
    try:
        return os.open(name, FOLDER_FLAGS, dir_fd=at)
    except (FileNotFoundError, NotADirectoryError):
        return None


def clear(path: Path) -> None:
    """Empty a folder, creating it if necessary; it may be in use as a working directory.

    A link in its place is removed; the target of the link is left alone. Raises FileExistsError
    if there is a file.
    """
    at = open_folder(path.parent, make=True)
    try:
        folder = _folder_in(path.name, at)
        if folder is None:
            if _is_link(path.name, at):
                _unlink(path.name, at)
            os.mkdir(path.name, dir_fd=at)
            folder = os.open(path.name, FOLDER_FLAGS, dir_fd=at)
        try:
            _empty(folder)
        finally:
            os.close(folder)
    finally:
        os.close(at)


def remove(path: Path) -> None:
    """Remove whatever has a path, with its content; nothing has to be there."""
    try:
        at = open_folder(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        folder = _folder_in(path.name, at)
        if folder is None:
            _unlink(path.name, at)
            return
        try:
            _empty(folder)
        finally:
            os.close(folder)
        os.rmdir(path.name, dir_fd=at)
    finally:
        os.close(at)


def _empty(root: int) -> None:
    """Remove everything in a folder.

    Folders are moved to the top before they are emptied, so that no depth takes more descriptors
    or a deeper stack.
    """
    free = _free_names(root)
    for turn in range(1, MAX_TRIES + 1):
        pending = _unlink_files(root, root, free)
        while pending:
            name = pending.pop()
            inner = _folder_in(name, root)
            if inner is None:
                _unlink(name, root)
                continue
            try:
                pending += _unlink_files(inner, root, free)
            finally:
                os.close(inner)
            try:
                os.rmdir(name, dir_fd=root)
            except OSError as exc:
                if exc.errno not in {errno.ENOTEMPTY, errno.ENOENT, *REPLACED} or turn == MAX_TRIES:
                    raise
        with os.scandir(root) as left:
            if next(left, None) is None:
                return
    raise OSError(errno.ENOTEMPTY, "something keeps adding to the folder")


def _unlink_files(folder: int, root: int, free: Iterator[str]) -> list[str]:
    """Remove the files of a folder; return the names of its folders, moved to `root`."""
    folders = []
    with os.scandir(folder) as found:
        items = [(item.name, item.is_dir(follow_symlinks=False)) for item in found]
    for name, is_folder in items:
        if not is_folder:
            _unlink(name, folder)
        elif folder == root:
            folders.append(name)
        else:
            moved = next(free)
            try:
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=root)
            except FileNotFoundError:
                continue
            folders.append(moved)
    return folders


def _free_names(root: int) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        name = f".runctl-removed-{number}"
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            yield name


def _is_link(name: str, at: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink(name: str, at: int) -> None:
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        # If it was replaced by a folder, the next turn removes that.
        inner = _folder_in(name, at)
        if inner is None:
            raise
        os.close(inner)
