"""System V shared memory, semaphores and message queues, which outlive the processes of a user."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

from runctl.agent.instance.open_files import PROC

_REMOVE = 0  # IPC_RMID
_IDENTIFIERS = {"shm": "shmid", "sem": "semid", "msg": "msqid"}


def remove_ipc_of(uid: int) -> int:
    """Remove everything of these kinds that a user owns or has made; return how many there were.

    Only root may do so, and only in its own IPC namespace.
    """
    removed = 0
    for kind, identifier in find_ipc_of(uid):
        removed += _remove(kind, identifier) == 0
    return removed


def find_ipc_of(uid: int, proc: Path = PROC) -> Iterator[tuple[str, int]]:
    """Yield what a user owns or has made, by its kind and identifier."""
    for kind, name in _IDENTIFIERS.items():
        lines: list[str] = []
        with contextlib.suppress(OSError):  # a kernel without System V IPC
            lines = (proc / "sysvipc" / kind).read_text().splitlines()
        titles = lines[0].split() if lines else []
        for line in lines[1:]:
            found = dict(zip(titles, line.split(), strict=False))
            if str(uid) in {found.get("uid"), found.get("cuid")}:
                yield kind, int(found[name])


def _remove(kind: str, identifier: int) -> int:
    libc = ctypes.CDLL(None)
    if kind == "sem":
        return int(libc.semctl(identifier, 0, _REMOVE))
    control = libc.shmctl if kind == "shm" else libc.msgctl
    return int(control(identifier, _REMOVE, None))
