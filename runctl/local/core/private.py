"""Private folders and files: only the owner can read what the local cloud keeps."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from runctl.model.errors import RunctlError

UMASK = 0o077
_OTHERS_MAY_WRITE = 0o022


class FolderNotPrivateError(RunctlError):
    """The local cloud's folder belongs to another user, or others may write to it."""


def make_folder(folder: Path) -> None:
    """Create a folder that only its owner can enter; refuse one that others control."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(folder)
    # Local clouds of earlier versions left folders that everybody could read.
    folder.chmod(0o700)


def check(folder: Path) -> None:
    """Raise FolderNotPrivateError if another user owns the folder or could change its content."""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise FolderNotPrivateError(
            f"RUNCTL_LOCAL_HOME: {folder} belongs to user {found.st_uid}, not to you "
            f"({os.geteuid()}); the local cloud needs a folder of your own: set RUNCTL_LOCAL_HOME "
            "to another folder"
        )
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise FolderNotPrivateError(
            f"RUNCTL_LOCAL_HOME: other users may write to {folder} (mode "
            f"{stat.S_IMODE(found.st_mode):o}); the local cloud needs a private folder: "
            f"remove unknown files from it and run `chmod 700 {folder}`, or set "
            "RUNCTL_LOCAL_HOME to another folder"
        )
    for parent in folder.resolve().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise FolderNotPrivateError(
                f"RUNCTL_LOCAL_HOME: every user may replace the content of {parent} (mode "
                f"{stat.S_IMODE(mode):o}), {folder} included: run `chmod o-w {parent}`, or set "
                "RUNCTL_LOCAL_HOME to another folder"
            )


def write(path: Path, text: str) -> None:
    """Write a file that only its owner can read; it appears complete."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    temporary.replace(path)


def append(path: Path) -> BinaryIO:
    """Open a file that only its owner can read for appending."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def close(folder: Path) -> None:
    """Remove other users' permissions from a folder and its files; their owner's modes stay."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~UMASK)
