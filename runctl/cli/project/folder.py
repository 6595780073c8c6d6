"""Where a project and its settings are: upwards, in folders of the same owner only.

What another user put into a folder above must not choose what is packed, nor the account and the
variables of a run (as in CVE-2022-24765 of git).
"""

import errno
import os
import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from runctl.model.errors import ProjectError, SettingsError

SETTINGS_FILE = ".runctl.toml"
REPOSITORY = ".git"
# Nobody's project; what is below them may be one.
_SYSTEM_FOLDERS = (
    "/", "/Applications", "/Library", "/System", "/Users", "/Volumes", "/bin", "/boot", "/dev",
    "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/private", "/private/tmp",
    "/private/var", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr",  # noqa: S108
    "/usr/local", "/var", "/var/lib", "/var/tmp",  # noqa: S108
)  # fmt: skip
# What stat says of every file where user ids do not exist.
_WINDOWS_UID = 0
_KERNEL = ("/dev", "/proc", "/sys")
# Windows has neither terminals that a process can acquire nor descriptors that a child inherits.
_READ_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _READ_FLAGS |= getattr(os, _flag, 0)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest marks from a folder upwards; `ignored` are nearer ones that do not count.

    `owner` is the user id because of which they do not.
    """

    settings: Path | None = None
    project: Path | None = None
    ignored: tuple[Path, ...] = ()
    owner: int = -1

    def warning(self, names: Collection[str]) -> str:
        """Say in one line which marks of these names do not count, and why; empty if none."""
        marks = [mark for mark in self.ignored if mark.name in names]
        if not marks:
            return ""
        marks = [mark for mark in marks if mark.parent == marks[0].parent]
        them = "it" if len(marks) == 1 else "them"
        return (
            f"ignored {' and '.join(mark.name for mark in marks)} in {marks[0].parent}: "
            f"{_name_of(self.owner)} owns {them}, or a folder on the way; to use {them}, name the "
            "folder with --project"
        )


def look_upwards(start: Path, *, is_named: bool = False) -> Found:
    """Search for settings and the project; a folder that the user named counts as the user's."""
    start = start.absolute()
    settings = project = None
    ignored: list[Path] = []
    owner = -1
    trusted = _owners(start if is_named else None)
    homes = _homes()
    barrier: int | None = None  # the owner of a folder on the way
    for folder in (start, *start.parents):
        barrier = _foreign_owner(folder, trusted) if barrier is None else barrier
        for mark in (folder / SETTINGS_FILE, folder / REPOSITORY):
            is_wanted = settings is None if mark.name == SETTINGS_FILE else project is None
            if not is_wanted or not os.path.lexists(mark):
                continue
            other = _foreign_owner(mark, trusted) if barrier is None else barrier
            if other is not None:
                ignored.append(mark)
                owner = other
                continue
            if mark.name == SETTINGS_FILE:
                settings = mark
            if folder not in homes:  # where both settings and dotfiles are kept
                project = project or folder
        trusted = _owners(None)  # that the user named a folder says nothing of those above
        if settings is not None or folder in homes or (ignored and barrier is not None):
            break
    return Found(settings=settings, project=project, ignored=tuple(ignored), owner=owner)


def find_project(start: Path) -> Path:
    """Return the nearest folder upwards with `.runctl.toml` or `.git`, else `start` itself."""
    return look_upwards(start).project or start.absolute()


def repository_top(project: Path) -> Path:
    """Return the repository's top folder, the project itself outside of any repository."""
    trusted = _owners(project)
    for folder in (project, *project.parents):
        if folder in _homes() or _foreign_owner(folder, trusted) is not None:
            break
        mark = folder / REPOSITORY
        if mark.exists() and _foreign_owner(mark, trusted) is None:
            return folder
        trusted = _owners(None)
    return project


def check_project_folder(folder: Path) -> None:
    """Refuse to pack a folder that nobody named and that is more than a project."""
    real = Path(os.path.realpath(folder))
    homes = _homes()
    is_marked = look_upwards(folder).project == folder and str(real) != "/"
    above_homes = {parent for home in homes for parent in home.parents}
    what = ""
    if real in homes:
        what = "your home folder"
    elif any(real.is_relative_to(one) for one in _KERNEL) or (
        not is_marked and (real in above_homes or str(real) in _system_folders())
    ):
        what = "a folder of the system"
    if what:
        raise ProjectError(
            f"--project: {real} is {what}, which is packed only when it is named; change into "
            "the project's folder, or name the folder with --project"
        )


def read_regular_file(path: Path, *, most: int) -> bytes:
    """Return the content of a file; SettingsError when it is a device, a pipe, or too large."""
    # A pipe would wait for its writer, and a device may have no end.
    descriptor = os.open(path, _READ_FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise SettingsError(f"{path} is not a regular file; replace it with one")
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise SettingsError(f"{path} has more than {most:,} bytes; make it smaller")
    return content


def _owners(named: Path | None) -> set[int]:
    """Return whose files count: ours, those of who called sudo, and the named folder's owner's."""
    uid = os.geteuid() if hasattr(os, "geteuid") else _WINDOWS_UID
    owners = {uid}
    caller = os.environ.get("SUDO_UID", "")
    if uid == 0 and caller.isascii() and caller.isdecimal():
        owners.add(int(caller))
    if named is not None:
        owners.update(_uids_of(named))
    return owners


def _foreign_owner(path: Path, owners: set[int]) -> int | None:
    """Return who else owns a path or, if it is a link, what it leads to; None if nobody does."""
    return next((uid for uid in _uids_of(path) if uid not in owners), None)


def _uids_of(path: Path) -> list[int]:
    """Return the owners of a path and of what it leads to, if it is a link."""
    found = []
    for follow in (False, True):
        try:
            found.append(path.stat(follow_symlinks=follow).st_uid)
        except OSError:
            continue  # a link to nothing has an owner of its own
    return found


def _homes() -> set[Path]:
    """Return the home folder as it is named and as it is."""
    try:
        home = Path.home()
    except RuntimeError:
        return set()
    return {home, Path(os.path.realpath(home))} - {Path("/")}


def _system_folders() -> set[str]:
    return {*_SYSTEM_FOLDERS, os.path.realpath(tempfile.gettempdir())}


def _name_of(uid: int) -> str:
    try:
        import pwd  # not on Windows, where no file is another user's

        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
