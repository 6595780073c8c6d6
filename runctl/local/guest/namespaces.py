"""Mount namespaces: a process's mounts that the machine never sees."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

# linux/sched.h, sys/mount.h
_NEW_MOUNTS, _NEW_USERS, _NEW_IPC = 0x00020000, 0x10000000, 0x08000000
_BIND, _MOVE, _RECURSIVE = 0x1000, 0x2000, 0x4000
_SLAVE, _SHARED = 0x80000, 0x100000
_DETACH = 2

_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(*, is_shared: bool = False) -> None:
    """Give this process and its descendants their own mounts; raise OSError if that is refused.

    A process that is not root becomes root for mounts only, in a user namespace, which a process
    with threads cannot enter. What the machine mounts and unmounts later is visible here, too. With
    `share`, namespaces that descend from this one see its mounts come and go as well.
    """
    user, group = os.getuid(), os.getgid()
    try:
        call("unshare", _NEW_MOUNTS)
    except PermissionError:
        call("unshare", _NEW_MOUNTS | _NEW_USERS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    call("mount", None, b"/", None, _RECURSIVE | _SLAVE, None)
    if is_shared:
        call("mount", None, b"/", None, _RECURSIVE | _SHARED, None)


def enter_ipc() -> None:
    """Give this process and its descendants System V IPC of their own; only root may."""
    call("unshare", _NEW_IPC)


def try_in_child(act: Callable[[], None]) -> str:
    """Call a function in a child process, and return the OSError that it raises as text."""
    readable, writable = os.pipe()
    if not (pid := os.fork()):
        reason = "it ended early"
        try:
            act()
            reason = ""
        except OSError as exc:
            reason = str(exc)
        finally:
            os.write(writable, reason.encode())
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as stream:
        reason = stream.read()
    os.waitpid(pid, 0)
    return reason


def mount_tmpfs(target: Path, options: str) -> None:
    """Mount an empty file system in memory at a folder."""
    call("mount", b"tmpfs", os.fsencode(target), b"tmpfs", 0, options.encode())


def bind(source: Path, target: Path) -> None:
    """Show a file, or a folder with everything mounted below it, at another path, too."""
    call("mount", os.fsencode(source), os.fsencode(target), None, _BIND | _RECURSIVE, None)


def move(source: Path, target: Path) -> None:
    """Move a mount to another path."""
    call("mount", os.fsencode(source), os.fsencode(target), None, _MOVE, None)


def show(entry: os.DirEntry[str], target: Path) -> None:
    """Show a file, a folder or a link of one folder in another one, under a name that is free."""
    if entry.is_symlink():
        target.symlink_to(Path(entry.path).readlink())
        return
    if entry.is_dir():
        target.mkdir()
    else:
        target.touch()
    bind(Path(entry.path), target)


def show_at(path: Path, target: Path) -> None:
    """Show a file or a folder at another path, making the folders above that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    bind(path, target)


def detach(target: Path) -> None:
    """Unmount a folder, even while its files are open."""
    call("umount2", os.fsencode(target), _DETACH)


def call(name: str, *arguments: int | bytes | None) -> None:
    """Call a function of the C library; raise OSError if it fails."""
    given = [
        ctypes.c_ulong(argument) if isinstance(argument, int) else argument
        for argument in arguments
    ]
    if getattr(_LIBC, name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
