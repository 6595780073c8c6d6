"""The files of an environment as its build left them, whatever a trainer has done since."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runctl.checkpoint.folder_state import FileState, FolderState
from runctl.model.errors import CheckpointError

# All files get this time (2020-01-01 UTC), so that the same packages make the same parts: compiled
# modules contain the times of their sources.
FILE_TIME_NS = 1_577_836_800_000_000_000
READY = "ready"
CACHE = "__pycache__"
COMPILER = Path(__file__).with_name("bytecode.py")
# The part of a name in site-packages that its folder, its metadata and its libraries share.
_GROUP = re.compile(r"lib/python[^/]*/site-packages/_?([A-Za-z0-9_]+)")


def settle_times(target: Path) -> None:
    """Give all files of a new environment the same time."""
    times = (FILE_TIME_NS, FILE_TIME_NS)
    for parent, _, files in os.walk(target):
        for name in files:
            os.utime(f"{parent}/{name}", ns=times, follow_symlinks=False)


def group_of(path: str) -> str:
    """Return the package that a file belongs to, or "" for other files."""
    match = _GROUP.match(path)
    return match[1].lower() if match else ""


class BuiltFiles:
    """What is to be stored of an environment: its files, and its modules compiled elsewhere.

    Bytecode that a trainer has left there is ignored; so is nothing else: CheckpointError if a file
    is not as it was at `built_ns`, the time of the last change by the build.
    """

    def __init__(self, target: Path, scratch: Path, *, built_ns: int) -> None:
        self.view: FolderState = {}
        self._target = target
        self._scratch = scratch
        self._built_ns = built_ns
        self._places: dict[str, str] = {}

    def place_of(self, path: str, _file_state: FileState) -> str:
        """Return where a file is read from."""
        return self._places.get(path) or f"{self._target}/{path}"

    def scan(self) -> None:
        """Fill the view with the environment's files."""
        for path, info in _walk(str(self._target)):
            kind = _kind(info)
            if kind != "dir" and info.st_ctime_ns > self._built_ns:
                raise CheckpointError(
                    f"{path} was changed after the environment was built, so it is not stored"
                )
            self.view[path] = _state(kind, info, f"{self._target}/{path}")

    def compile(self, python: Path) -> None:
        """Compile all modules into the scratch folder, and add them to the view."""
        self._scratch.mkdir(parents=True)
        modules: dict[str, str] = {}
        words: list[str] = []
        # The interpreter of environments is the agent's own.
        tag = sys.implementation.cache_tag
        for path, file_state in self.view.items():
            if file_state.kind == "file" and path.endswith(".py") and path.startswith("lib"):
                place = f"{self._scratch}/{len(modules)}.pyc"
                above, _, name = path.rpartition("/")
                modules[f"{above}/{CACHE}/{name[:-3]}.{tag}.pyc"] = place
                words += [f"{self._target}/{path}", path, place]
        subprocess.run(
            [str(python), "-I", "-S", str(COMPILER)],
            input=b"".join(os.fsencode(word) + b"\0" for word in words),
            check=True,
        )
        for path, place in modules.items():
            self._add_module(path, place)

    def _add_module(self, path: str, place: str) -> None:
        try:
            os.utime(place, ns=(FILE_TIME_NS, FILE_TIME_NS))
            info = os.lstat(place)
        except FileNotFoundError:
            return  # it could not be compiled
        folder = path.rpartition("/")[0]
        self.view.setdefault(folder, FileState("dir", 0o755, FILE_TIME_NS))
        self.view[path] = FileState(
            "file", 0o644, FILE_TIME_NS, info.st_size, (info.st_dev, info.st_ino)
        )
        self._places[path] = place


def _walk(target: str) -> Iterator[tuple[str, os.stat_result]]:
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(f"{target}/{below}") as found:
            items = [item for item in found if item.name != CACHE]
        for item in items:
            path = f"{below}/{item.name}" if below else item.name
            if path == READY:
                continue
            info = os.lstat(item.path)
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)


def _kind(info: os.stat_result) -> str:
    if stat.S_ISLNK(info.st_mode):
        return "link"
    return "dir" if stat.S_ISDIR(info.st_mode) else "file"


def _state(kind: str, info: os.stat_result, path: str) -> FileState:
    mode = stat.S_IMODE(info.st_mode)
    if kind == "link":
        return FileState(kind, mode, FILE_TIME_NS, target=str(Path(path).readlink()))
    if kind == "dir":
        return FileState(kind, mode, FILE_TIME_NS)
    return FileState(kind, mode, info.st_mtime_ns, info.st_size, (info.st_dev, info.st_ino))
