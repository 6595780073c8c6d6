"""Files of a folder that processes hold open for writing, known by device and inode.

A path would not identify them: behind a bind mount or in a container a process opens the same file
by another path, and a hard link is a second path of the same file.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from runctl.beneath.folder import Folder, walk

PROC = Path("/proc")

# Device and inode, the number of hard links, and the path that the kernel shows. A file that is
# moved into the folder, or linked there, while it is open changes one of the last two.
_Key = tuple[int, int, int, str]


class OpenFileFinder:
    """Finds which files of a folder processes hold open for writing.

    It remembers what it has found out about open files. The whole folder is only searched for a
    file that is new, and whose path does not lead to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[_Key, frozenset[str]] = {}

    def by_process(self, pids: Iterable[int]) -> dict[int, frozenset[str]]:
        """Return the files that each of `pids` holds open for writing, relative to the folder.

        A file with several names in the folder is returned with all of them. Processes that hold
        none open are left out.
        """
        search = _Search(self._folder, self._known)
        found: dict[int, frozenset[str]] = {}
        for pid in pids:
            for descriptor in _writable_descriptors(pid):
                with contextlib.suppress(OSError):
                    if names := search.names_of(descriptor):
                        found[pid] = found.get(pid, frozenset()) | names
        self._known = search.found
        return found

    def files(self, pids: Iterable[int]) -> set[str]:
        """Return all files that any of `pids` holds open for writing, relative to the folder."""
        return set().union(*self.by_process(pids).values())


class _Search:
    """One search: `known` is the result of the last one, `found` that of this one."""

    def __init__(self, folder: Path, known: dict[_Key, frozenset[str]]) -> None:
        self._path = folder
        self._folder = os.path.realpath(folder)  # as the kernel shows it
        self._known = known
        self._index: dict[tuple[int, int], frozenset[str]] | None = None
        self.found: dict[_Key, frozenset[str]] = {}

    def names_of(self, descriptor: str) -> frozenset[str]:
        """Return the names of an open file in the folder. Raises OSError once it is closed."""
        info = Path(descriptor).stat()
        if not stat.S_ISREG(info.st_mode) or not info.st_nlink:
            return frozenset()
        path = str(Path(descriptor).readlink())
        key = (info.st_dev, info.st_ino, info.st_nlink, path)
        if key not in self.found:
            names = self._names_known(key)
            self.found[key] = self._names_searched(key) if names is None else names
        return self.found[key]

    def _names_known(self, key: _Key) -> frozenset[str] | None:
        """Return the names without a search, or None if they have to be searched for."""
        device, inode, links, path = key
        names = self._known.get(key)
        if names is None and links == 1 and path.startswith(f"{self._folder}/"):
            names = frozenset({path[len(self._folder) + 1 :]})
        if names is None or any(
            _identity_of(f"{self._folder}/{name}") != (device, inode) for name in names
        ):
            return None
        return names

    def _names_searched(self, key: _Key) -> frozenset[str]:
        if self._index is None:
            names: dict[tuple[int, int], set[str]] = {}
            with contextlib.suppress(OSError), Folder.opened(self._path) as folder:
                for found in walk(folder):
                    if not found.is_folder:
                        names.setdefault(found.identity, set()).add(found.path)
            self._index = {identity: frozenset(paths) for identity, paths in names.items()}
        return self._index.get(key[:2], frozenset())


def _identity_of(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        return info.st_dev, info.st_ino
    return None


def _writable_descriptors(pid: int) -> Iterable[str]:
    """Yield the paths in /proc of the descriptors by which a process can write."""
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                # The permissions of the link are those that the file was opened with.
                if descriptor.stat(follow_symlinks=False).st_mode & stat.S_IWUSR:
                    yield descriptor.path
