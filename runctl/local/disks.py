"""Disks of a size for instances: file systems in memory, in a mount namespace of its own.

With the local cloud's last process they are gone, however it ended; nothing else ever sees them.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# linux/sched.h, sys/mount.h
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_RECURSIVE, _FOLLOW_THE_MACHINE = 0x4000, 0x80000
_DETACH = 2

BYTES_AN_INODE = 16 * 1024

_possible = False


def enter_own_namespace() -> None:
    """Let this process and what it starts have mounts of their own; OSError when that is refused.

    Who is not root becomes so for mounts only, in a user namespace, which a process with threads
    cannot enter. What the machine mounts and unmounts later is seen here too.
    """
    global _possible
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:
        _call("unshare", _NEW_MOUNTS | _NEW_USERS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _call("mount", None, b"/", None, _RECURSIVE | _FOLLOW_THE_MACHINE, None)
    _possible = True


def are_possible() -> bool:
    """Whether this process may mount disks."""
    return _possible


def mount(root: Path, size_bytes: int) -> None:
    """Put an empty disk of so many bytes at a folder, with as many inodes as ext4 gives it."""
    options = f"size={size_bytes},nr_inodes={size_bytes // BYTES_AN_INODE},mode=755".encode()
    _call("mount", b"tmpfs", os.fsencode(root), b"tmpfs", 0, options)


def unmount(root: Path) -> None:
    """Take a disk away with what is on it, though somebody may still have a file open."""
    _call("umount2", os.fsencode(root), _DETACH)


def _call(name: str, *arguments: int | bytes | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(libc, name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
