"""Disks of a size for instances: file systems in memory, in a mount namespace of its own.

With the local cloud's last process they are gone, however it ended; nothing else ever sees them.
"""

from __future__ import annotations

import os
from pathlib import Path

from runctl.local.guest import namespaces

BYTES_AN_INODE = 16 * 1024
_MIN_BYTES = 1024 * 1024

_possible = False


def enter_own_namespace() -> None:
    """Let this process have disks that nobody else sees; OSError when that is refused."""
    global _possible
    # Shared, so that no other instance's namespace keeps a disk that was taken away.
    namespaces.enter(share=True)
    _possible = True


def are_possible() -> bool:
    """Whether this process may mount disks."""
    return _possible


def mount(root: Path, size_bytes: int) -> None:
    """Put an empty disk of so many bytes at a folder, with as many inodes as ext4 gives it."""
    options = f"size={size_bytes},nr_inodes={size_bytes // BYTES_AN_INODE},mode=700"
    namespaces.mount_tmpfs(root, options)


def check(size_bytes: int) -> None:
    """Refuse a size that could not be enforced: ValueError says why."""
    if size_bytes < _MIN_BYTES:
        raise ValueError(f"{size_bytes} bytes are less than one MiB")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_bytes > memory:
        raise ValueError(
            f"{size_bytes} bytes are more than this machine's memory ({memory}), which holds the "
            "disks of instances"
        )


def unmount(root: Path) -> None:
    """Take a disk away with what is on it, even while its files are open."""
    namespaces.detach(root)
