"""The files of an environment as its build left them, whatever a trainer has done since."""

import errno
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from runctl.agent.instance.ownership import give_to, take_back
from runctl.agent.runtime.environment import DEFAULT_PATH
from runctl.agent.runtime.trainer_user import TrainerUser, starting
from runctl.beneath.folder import Folder, Found, walk
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

    def __init__(self, folder: Folder, scratch: Path, *, built_ns: int) -> None:
        self.view: FolderState = {}
        self._folder = folder
        self._scratch = scratch
        self._built_ns = built_ns
        self._places: dict[str, str] = {}

    def open(self, path: str, file_state: FileState) -> int:
        """Open a file for reading; FileNotFoundError if it is not the one that was scanned."""
        if path in self._places:
            return os.open(self._places[path], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        descriptor = self._folder.open(path)
        info = os.fstat(descriptor)
        if (info.st_dev, info.st_ino) != file_state.inode:
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "it was replaced", path)
        return descriptor

    def scan(self) -> None:
        """Fill the view with the environment's files."""
        for found in walk(self._folder):
            path, info = found.path, found.info
            if path == READY or CACHE in path.split("/"):
                continue
            kind = _kind(found)
            if kind != "dir" and info.st_ctime_ns > self._built_ns:
                raise CheckpointError(
                    f"{path} was changed after the environment was built, so it is not stored"
                )
            self.view[path] = _state(kind, found)

    def compile(self, python: Path, user: TrainerUser | None = None) -> None:
        """Compile all modules into the scratch folder, as a user, and add them to the view."""
        self._scratch.mkdir(mode=0o700 if user else 0o777, parents=True)
        if user is not None:
            give_to(user.owner, [self._scratch])
        modules: dict[str, str] = {}
        words: list[str] = []
        # The interpreter of environments is the agent's own.
        tag = sys.implementation.cache_tag
        for path, file_state in self.view.items():
            if file_state.kind == "file" and path.endswith(".py") and path.startswith("lib"):
                place = f"{self._scratch}/{len(modules)}.pyc"
                above, _, name = path.rpartition("/")
                modules[f"{above}/{CACHE}/{name[:-3]}.{tag}.pyc"] = place
                words += [path, place]
        command = [str(python), "-I", "-S", str(COMPILER), str(self._folder.descriptor)]
        with starting(user, command, {"PATH": DEFAULT_PATH}, keeps_input=True) as start:
            subprocess.run(
                start.words,
                pass_fds=[self._folder.descriptor],
                input=b"".join(os.fsencode(word) + b"\0" for word in words),
                env=start.environment,
                check=True,
            )
        if user is not None:
            take_back(self._scratch)
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


def _kind(found: Found) -> str:
    if found.is_link:
        return "link"
    if found.is_folder:
        return "dir"
    if not found.is_file:
        raise CheckpointError(f"{found.path} is neither a file nor a folder, so it is not stored")
    return "file"


def _state(kind: str, found: Found) -> FileState:
    info = found.info
    mode = stat.S_IMODE(info.st_mode)
    if kind == "link":
        return FileState(kind, mode, FILE_TIME_NS, target=found.target())
    if kind == "dir":
        return FileState(kind, mode, FILE_TIME_NS)
    return FileState(kind, mode, info.st_mtime_ns, info.st_size, found.identity)
