"""The processes that a program consists of, wherever it runs."""

import contextlib
import os
from typing import Protocol

from runctl.agent.instance import processes
from runctl.agent.runtime.process_table import ProcessInfo, read_processes, trainer_family


class Family(Protocol):
    """The living processes of a program, found anew by each call."""

    def pids(self) -> list[int]:
        """Return all that end with the program, parents before children."""
        ...

    def infos(self) -> list[ProcessInfo]:
        """Return the program's own, parents before children."""
        ...


class AgentDescendants:
    """The family of a program on the host: what descends from the agent.

    The agent's tools are among its `pids`, but not among its `infos`.
    """

    def pids(self) -> list[int]:
        """Return all descendants, including those that outlived the program."""
        return processes.descendants(os.getpid())

    def infos(self) -> list[ProcessInfo]:
        """Return the program's own processes."""
        return trainer_family()


class SessionMembers:
    """The family of one of several programs on the host: its session, and what descends from it.

    A process that has left both, as a daemon does, is only ended with the attempt.
    """

    def __init__(self, leader: int) -> None:
        self._leader = leader

    def pids(self) -> list[int]:
        """Return the members of the session, and their descendants in other sessions."""
        members = [pid for pid in processes.all_pids() if self._is_member(pid)]
        known = set(members)
        return members + [pid for pid in processes.descendants(*members) if pid not in known]

    def infos(self) -> list[ProcessInfo]:
        """Return them with what is known of them."""
        return read_processes(self.pids())

    def _is_member(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return os.getsid(pid) == self._leader and processes.is_alive(pid)
        return False
