"""Giving files to a user and taking them back, as root, in folders that the user can change.

Every file is reached from the descriptor of its folder, and no link is followed.
"""

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from runctl.agent.instance.open_files import PROC
from runctl.beneath.changes import give, remove
from runctl.beneath.paths import open_folder
from runctl.model.errors import RequestError

OTHERS = 0o022
OTHERS_ENTER = 0o011
READ, EXECUTE = 0o444, 0o111
_OCTAL = re.compile(rb"\\([0-7]{3})")  # how the kernel writes a space and the like
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def give_to(owner: tuple[int, int], places: Iterable[Path]) -> None:
    """Let a user and a group own files and folders with all that is in them."""
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            give(place, *owner)


def take_back(folder: Path) -> None:
    """Let root own a folder with all that is in it; everybody may read it, and only root write.

    No process of its user may run meanwhile. Raises OSError for anything that is neither a file, a
    folder nor a link: reading it could wait for ever.
    """
    _take(folder, None)
    for _, folders, files, descriptor in os.fwalk(folder, onerror=_raise):
        for name in (*folders, *files):
            _take(name, descriptor)


def _raise(error: OSError) -> None:
    raise error


def _take(path: "Path | str", folder: int | None) -> None:
    found = os.stat(path, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        os.chown(path, 0, 0, dir_fd=folder, follow_symlinks=False)
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{os.fspath(path)!a} is neither a file, a folder nor a link")
    descriptor = os.open(path, _OPEN, dir_fd=folder)
    try:
        os.fchown(descriptor, 0, 0)
        mode = stat.S_IMODE(found.st_mode)
        if (wanted := shared_mode(mode)) != mode:
            os.fchmod(descriptor, wanted)
    finally:
        os.close(descriptor)


def shared_mode(mode: int) -> int:
    """Return a mode with which everybody may do what the owner may, except to write."""
    shared = (mode | READ) & 0o777 & ~OTHERS
    return shared | EXECUTE if mode & stat.S_IXUSR else shared


def require_inside(folder: Path, above: Path) -> None:
    """Raise RequestError if the way to a folder has a link that the agent, as root, cannot follow.

    The project may have brought one along, or a build may have made it. What lies behind it would
    be neither saved nor restored.
    """
    real = os.path.realpath(folder)
    if not Path(real).is_relative_to(os.path.realpath(above)):
        raise RequestError(
            f"{folder} leads to {real}, out of the run's files, so no checkpoint is put there; "
            "make it a folder"
        )
    try:
        os.close(open_folder(folder.parent))
    except FileNotFoundError:
        return
    except NotADirectoryError as exc:
        if link := _first_link(folder.parent, above):
            raise RequestError(
                f"{link} is a link that the program can change, so no checkpoint is put into "
                f"{folder}; make it a folder"
            ) from exc


def remove_link(folder: Path, above: Path) -> None:
    """Remove the link that a program may have made on the way from `above` to a folder."""
    if link := _first_link(folder, above):
        remove(link)


def _first_link(folder: Path, above: Path) -> Path | None:
    way = reversed([folder, *folder.parents])
    inner = (path for path in way if path != above and path.is_relative_to(above))
    return next((path for path in inner if path.is_symlink()), None)


def remove_files_of(uid: int, folders: Iterable[Path], *, kept: Path | None = None) -> None:
    """Remove what a user has left in folders to which everybody may write.

    It may also be in folders of others that are in these, as /tmp/.X11-unix. `kept` is a folder
    that is left alone wherever it is, and so is whatever is mounted there, since several machines
    may share it.
    """
    spared = _identity(kept) if kept else None
    mounted = _mount_points()
    for folder in folders:
        waiting = [Path(os.path.realpath(folder))]
        while waiting:
            waiting += _remove_in(waiting.pop(), uid, mounted=mounted, spared=spared)


def _remove_in(
    folder: Path, uid: int, *, mounted: Collection[str], spared: tuple[int, int] | None
) -> list[Path]:
    """Remove what a user has in a folder; return the folders of others in it that it may enter."""
    mine, theirs = [], []
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        for item in items:
            path = folder / item.name
            if str(path) in mounted:
                continue
            with contextlib.suppress(FileNotFoundError):  # others may remove it at this moment
                found = item.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) == spared:
                    continue
                if found.st_uid == uid:
                    mine.append(path)
                elif stat.S_ISDIR(found.st_mode) and found.st_mode & OTHERS_ENTER:
                    theirs.append(path)
    for path in mine:
        with contextlib.suppress(OSError):
            remove(path)
    return theirs


def _mount_points() -> set[str]:
    """Return where something is mounted; that it has another device does not always say so.

    A folder that is mounted a second time has the same device, and a subvolume, which every user
    can make, another one.
    """
    lines = (PROC / "self/mountinfo").read_bytes().splitlines()
    return {os.fsdecode(_OCTAL.sub(_decoded, line.split(b" ")[4])) for line in lines}


def _decoded(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
