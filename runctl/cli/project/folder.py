"""The project's folder and settings file, searched upwards in folders of the same owner only.

Files that another user put into a parent folder must not decide what is packed, nor a run's account
or variables (compare CVE-2022-24765 of git).
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
# Not projects themselves, although folders below them may be.
_SYSTEM_FOLDERS = (
    "/", "/Applications", "/Library", "/System", "/Users", "/Volumes", "/bin", "/boot", "/dev",
    "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/private", "/private/tmp",
    "/private/var", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr",  # noqa: S108
    "/usr/local", "/var", "/var/lib", "/var/tmp",  # noqa: S108
)  # fmt: skip
# The owner that stat returns for every file where user ids do not exist.
_WINDOWS_UID = 0
_KERNEL = ("/dev", "/proc", "/sys")
# Windows has neither terminals that a process can acquire nor descriptors that a child inherits.
_READ_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _READ_FLAGS |= getattr(os, _flag, 0)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest marks from a folder upwards; `ignored` are nearer ones of another owner.

    `owner` is that owner's user id.
    """

    settings: Path | None = None
    project: Path | None = None
    ignored: tuple[Path, ...] = ()
    owner: int = -1

    def warning(self, names: Collection[str]) -> str:
        """Return in one line which marks of these names were ignored, and why; empty if none."""
        marks = [mark for mark in self.ignored if mark.name in names]
        if not marks:
            return ""
        marks = [mark for mark in marks if mark.parent == marks[0].parent]
        them = "it" if len(marks) == 1 else "them"
        return (
            f"ignored {' and '.join(mark.name for mark in marks)} in {marks[0].parent}: "
            f"{_name_of(self.owner)} owns {them}, or a folder in between; to use {them}, name the "
            "folder with --project"
        )


def look_upwards(start: Path, *, is_named: bool = False) -> Found:
    """Search for settings and the project; a folder that the user named is trusted."""
    start = start.absolute()
    settings = project = None
    ignored: list[Path] = []
    owner = -1
    trusted = _owners(start if is_named else None)
    homes = _homes()
    barrier: int | None = None  # the foreign owner of a folder on the way
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
            if folder not in homes:  # a home folder with settings or dotfiles is not a project
                project = project or folder
        trusted = _owners(None)  # naming a folder does not make its parents trusted
        if settings is not None or folder in homes or (ignored and barrier is not None):
            break
    return Found(settings=settings, project=project, ignored=tuple(ignored), owner=owner)


def find_project(start: Path) -> Path:
    """Return the nearest folder upwards with `.runctl.toml` or `.git`, otherwise `start`."""
    return look_upwards(start).project or start.absolute()


def repository_top(project: Path) -> Path:
    """Return the top folder of the project's repository, or the project if it has none."""
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
    """Refuse to pack a home or system folder that the user did not name."""
    real = Path(os.path.realpath(folder))
    homes = _homes()
    is_marked = look_upwards(folder).project == folder and str(real) != "/"
    above_homes = {parent for home in homes for parent in home.parents}
    what = ""
    if real in homes:
        what = "your home folder"
    elif any(real.is_relative_to(top) for top in _KERNEL) or (
        not is_marked and (real in above_homes or str(real) in _system_folders())
    ):
        what = "a system folder"
    if what:
        raise ProjectError(
            f"--project: {real} is {what}, which is packed only if it is named; change into "
            "the project's folder, or name the folder with --project"
        )


def read_regular_file(path: Path, *, most: int) -> bytes:
    """Return the content of a file; raises SettingsError for a device, a pipe, or a large file."""
    # A pipe would block until its writer closes it, and a device may be endless.
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
        raise SettingsError(f"{path} has more than {most:,} bytes; reduce its size")
    return content


def _owners(named: Path | None) -> set[int]:
    """Return the trusted owners: this user, the caller of sudo, and the named folder's owner."""
    uid = os.geteuid() if hasattr(os, "geteuid") else _WINDOWS_UID
    owners = {uid}
    caller = os.environ.get("SUDO_UID", "")
    if uid == 0 and caller.isascii() and caller.isdecimal():
        owners.add(int(caller))
    if named is not None:
        owners.update(_uids_of(named))
    return owners


def _foreign_owner(path: Path, owners: set[int]) -> int | None:
    """Return the untrusted owner of a path or of a link's target; None if there is none."""
    return next((uid for uid in _uids_of(path) if uid not in owners), None)


def _uids_of(path: Path) -> list[int]:
    """Return the owners of a path and, if it is a link, of its target."""
    found = []
    for follow in (False, True):
        try:
            found.append(path.stat(follow_symlinks=follow).st_uid)
        except OSError:
            continue  # a dangling link has an owner, but its target has none
    return found


def _homes() -> set[Path]:
    """Return the home folder, as named and with links resolved."""
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
