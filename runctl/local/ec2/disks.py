"""Instance disks of a fixed size: file systems in memory, in a separate mount namespace.

They disappear with the local cloud's last process, however it ends; nothing else sees them.
"""

from __future__ import annotations

import os
from pathlib import Path

from runctl.local.guest import namespaces

BYTES_AN_INODE = 16 * 1024
_MIN_BYTES = 1024 * 1024

_possible = False


def enter_own_namespace() -> None:
    """Enter a mount namespace of this process; raises OSError if the system refuses it."""
    global _possible
    # Shared, so that no other instance's namespace keeps a disk that was unmounted.
    namespaces.enter(is_shared=True)
    _possible = True


def are_possible() -> bool:
    """Whether this process may mount disks."""
    return _possible


def mount(root: Path, size_bytes: int) -> None:
    """Mount an empty disk of that size at a folder, with as many inodes as ext4 would have."""
    options = f"size={size_bytes},nr_inodes={size_bytes // BYTES_AN_INODE},mode=700"
    namespaces.mount_tmpfs(root, options)


def check(size_bytes: int) -> None:
    """Raise ValueError if a size cannot be enforced."""
    if size_bytes < _MIN_BYTES:
        raise ValueError(f"{size_bytes} bytes are less than one MiB")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_bytes > memory:
        raise ValueError(
            f"{size_bytes} bytes are more than this machine's memory ({memory}), which holds the "
            "disks of instances"
        )


def unmount(root: Path) -> None:
    """Unmount a disk and discard its contents, even while its files are open."""
    namespaces.detach(root)
