"""The processes of a container, as this machine sees them: found by their control group.

The numbers that the engine knows may be those of another PID namespace, so they are not used.
"""

import contextlib
from dataclasses import dataclass

from runctl.agent.instance import processes
from runctl.agent.instance.open_files import PROC
from runctl.agent.runtime.process_table import ProcessInfo, read_processes

# The init that the engine puts into a container, by the name that it is started with.
INIT = "docker-init"


@dataclass(frozen=True)
class Started:
    """The first processes of a container: its init, and the program that the init has started."""

    init: int
    lead: int


class ContainerFamily:
    """The processes of one container, apart from its init."""

    def __init__(self, container: str) -> None:
        self._container = container

    def pids(self) -> list[int]:
        """Return all that are alive, parents before children."""
        return [pid for pid in self._ordered() if processes.is_alive(pid) and not _is_init(pid)]

    def infos(self) -> list[ProcessInfo]:
        """Return the same with what they are."""
        return read_processes(self.pids())

    def started(self) -> Started | None:
        """Return the first processes, or None before they have started, or after their end."""
        members = self._members()
        for pid, parent in members.items():
            if parent in members and _is_init(parent):
                return Started(init=parent, lead=pid)
        return None

    def zombies(self, init: int) -> int:
        """Return how many processes have ended and wait for the init to collect them."""
        below = [pid for pid, parent in self._members().items() if parent == init]
        return sum(not processes.is_alive(pid) for pid in below)

    def _ordered(self) -> list[int]:
        members = self._members()
        ordered = [pid for pid, parent in members.items() if parent not in members]
        for above in ordered:
            ordered += [pid for pid, parent in members.items() if parent == above]
        return ordered

    def _members(self) -> dict[int, int]:
        """Return all processes of the container, zombies included, with their parents."""
        found: dict[int, int] = {}
        for pid in processes.all_pids():
            with contextlib.suppress(OSError, ValueError):
                if self._container in (PROC / str(pid) / "cgroup").read_text():
                    found[pid] = processes.parent_of(pid)
        return found


def _is_init(pid: int) -> bool:
    """Whether a process is the first of its PID namespace, and the engine's init by now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        if words[0].decode(errors="replace").rpartition("/")[2] != INIT:
            return False
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[-1] == "1"
    return False
