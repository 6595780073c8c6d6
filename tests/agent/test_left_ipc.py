"""System V IPC that a user has left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.agent.instance.left_ipc import find_ipc_of, remove_ipc_of

UID = 64913  # of nobody on this system
SHM = """
       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid
1381321283         14   600                  4096   812   812      0 58113   998 58113   998
         0         15   600                  4096   812   812      0  1000  1000  1000  1000
         0         16   600                  4096   812   812      0  1000  1000 58113   998
"""
MAKE: dict[str, Callable[[ctypes.CDLL], int]] = {
    "shm": lambda libc: libc.shmget(0, 4096, 0o1600),
    "sem": lambda libc: libc.semget(0, 1, 0o1600),
    "msg": lambda libc: libc.msgget(0, 0o1600),
}


def make_as(uid: int) -> None:
    os.setuid(uid)
    libc = ctypes.CDLL(None)
    assert all(make(libc) != -1 for make in MAKE.values())


def test_what_a_user_owns_or_has_made_is_found(tmp_path: Path) -> None:
    (tmp_path / "sysvipc").mkdir()
    (tmp_path / "sysvipc/shm").write_text(SHM.lstrip("\n"))
    (tmp_path / "sysvipc/msg").write_text("")
    assert list(find_ipc_of(58113, tmp_path)) == [("shm", 14), ("shm", 16)]
    assert list(find_ipc_of(14, tmp_path)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can remove what another user has left")
def test_everything_of_a_user_is_removed_and_nothing_of_others() -> None:
    for uid in (UID, UID + 1):
        process = multiprocessing.get_context("fork").Process(target=make_as, args=(uid,))
        process.start()
        process.join()
        assert process.exitcode == 0
    try:
        assert {kind for kind, _ in find_ipc_of(UID)} == set(MAKE)
        assert remove_ipc_of(UID) == 3
        assert list(find_ipc_of(UID)) == []
        assert {kind for kind, _ in find_ipc_of(UID + 1)} == set(MAKE)
    finally:
        assert remove_ipc_of(UID + 1) == 3
    assert remove_ipc_of(UID) == 0
