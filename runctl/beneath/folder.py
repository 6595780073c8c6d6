"""A folder by its descriptor, and what is in it."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.beneath.paths import (
    FOLDER_FLAGS,
    MAX_LINKS,
    REPLACED,
    make_folder,
    open_folder,
    open_regular,
)

# Each level takes a descriptor while a tree is walked.
MAX_LEVELS = 100


class OutsideError(OSError):
    """A link leads out of the folder that it lies in."""


class Folder:
    """A folder by its descriptor. `open` may be called by several threads at once, `at` may not."""

    def __init__(self, descriptor: int, path: str = "") -> None:
        """Take over a descriptor; `path` is where the folder was opened."""
        self.descriptor = descriptor
        self.path = path
        # Where it belongs to the agent's own user, nobody else can have made links in it.
        owner = os.fstat(descriptor).st_uid
        self._owner = None if owner == os.geteuid() else owner
        self._below: list[tuple[str, int]] = []

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, *, make: bool = False) -> Iterator["Folder"]:
        """Open a folder, as `open_folder` does, and close it in the end."""
        folder = cls(open_folder(path, make=make), str(path))
        try:
            yield folder
        finally:
            folder.close()

    def at(self, below: str, *, make: bool = False) -> int:
        """Return the descriptor of a folder in it, which is valid until the next call.

        The folders above it stay open, so that what is next to it is reached at once.
        """
        names = below.split("/") if below else []
        shared = 0
        most = min(len(names), len(self._below))
        while shared < most and names[shared] == self._below[shared][0]:
            shared += 1
        self._close_below(shared)
        for name in names[shared:]:
            above = self._below[-1][1] if self._below else self.descriptor
            if make:
                make_folder(name, above)
            self._below.append((name, os.open(name, FOLDER_FLAGS, dir_fd=above)))
        return self._below[-1][1] if self._below else self.descriptor

    def open(self, path: str) -> int:
        """Open a regular file in it for reading; FileNotFoundError if there is none."""
        above, _, name = path.rpartition("/")
        if not above:
            return self.open_at(name, self.descriptor)
        at = self._open_below(above)
        try:
            return self.open_at(name, at)
        finally:
            os.close(at)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Open the folder that `path` lies in; yield its descriptor and the name in it.

        Raises FileNotFoundError if there is no such folder.
        """
        above, _, name = path.rpartition("/")
        at = self._open_below(above) if above else self.descriptor
        try:
            yield at, name
        finally:
            if above:
                os.close(at)

    def _open_below(self, path: str) -> int:
        at = self.descriptor
        try:
            for name in path.split("/"):
                inner = os.open(name, FOLDER_FLAGS, dir_fd=at)
                if at != self.descriptor:
                    os.close(at)
                at = inner
        except OSError as exc:
            if at != self.descriptor:
                os.close(at)
            if exc.errno == errno.ENOTDIR:
                raise FileNotFoundError(errno.ENOENT, "a folder was replaced", path) from exc
            raise
        return at

    def open_at(self, name: str, at: int) -> int:
        """Open a regular file in the folder `at`, which is this one or below it."""
        descriptor = open_regular(name, at)
        if self._owner is not None and self.is_foreign(os.fstat(descriptor)):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "it is a hard link to another user's file", name)
        return descriptor

    def open_inside(self, path: str) -> int:
        """Open a file for reading through links that stay in the folder.

        Raises OutsideError for one that leads out of it, FileNotFoundError if there is no file.
        """
        return self.open(self.without_links(path))

    def without_links(self, path: str) -> str:
        """Return the path of what is at `path`, with links replaced by what they name.

        Nothing is opened by way of a link, so a link that is made afterwards leads nowhere.
        """
        waiting, found, links = path.split("/"), list[str](), 0
        while waiting:
            name = waiting.pop(0)
            if name in {"", "."}:
                continue
            if name == "..":
                if not found:
                    raise OutsideError(errno.EXDEV, "a link leads out of the folder", path)
                found.pop()
                continue
            target = self._target("/".join([*found, name]))
            if target is None:
                found.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OutsideError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                own = f"{self.path.rstrip('/')}/"
                if not f"{target}/".startswith(own):
                    raise OutsideError(errno.EXDEV, f"a link leads to {target!a}", path)
                found, target = [], target[len(own) :]
            waiting = target.split("/") + waiting
        return "/".join(found)

    def _target(self, path: str) -> str | None:
        above, _, name = path.rpartition("/")
        try:
            return os.readlink(name, dir_fd=self.at(above))
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # it is there, and no link
                return None
            if exc.errno in REPLACED:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from exc
            raise

    def is_foreign(self, info: os.stat_result, *, own_links: int = 0) -> bool:
        """Return whether it is another name of a file that the folder's owner cannot have made.

        Where the kernel does not protect hard links, any user may give any file a name of its own.
        `own_links` is how many names of it are the agent's.
        """
        return (
            self._owner is not None and info.st_nlink > 1 + own_links and info.st_uid != self._owner
            and not stat.S_ISDIR(info.st_mode)
        )  # fmt: skip

    def close(self) -> None:
        """Close all descriptors."""
        self._close_below(0)
        os.close(self.descriptor)

    def _close_below(self, level: int) -> None:
        while len(self._below) > level:
            os.close(self._below.pop()[1])


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a folder: its path, and its name in the folder `at`, which is open until next.

    `info` describes a link itself.
    """

    path: str
    at: int
    name: str
    info: os.stat_result

    @property
    def identity(self) -> tuple[int, int]:
        """Its device and inode."""
        return self.info.st_dev, self.info.st_ino

    def target(self) -> str:
        """Return what a link says; FileNotFoundError if it is not one any more."""
        try:
            return os.readlink(self.name, dir_fd=self.at)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise FileNotFoundError(errno.ENOENT, "it was a link", self.path) from exc
            raise

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.info.st_mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.info.st_mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.info.st_mode)


def walk(folder: Folder, *, levels: int = MAX_LEVELS) -> Iterator[Found]:
    """Yield what is in a folder, except what vanishes meanwhile, folders before their content.

    The content of folders below so many levels is left out.
    """
    pending = [""]
    while pending:
        below = pending.pop()
        inner = []
        # What is replaced meanwhile by something other than a folder has no content.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in _names(folder.at(below)):
                at = folder.at(below)  # the caller may have used the folder
                try:
                    info = os.stat(name, dir_fd=at, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found = Found(f"{below}/{name}" if below else name, at, name, info)
                if found.is_folder and found.path.count("/") < levels - 1:
                    inner.append(found.path)
                yield found
        pending += reversed(inner)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(item.name for item in found)
