"""The processes that a program consists of, wherever it runs."""

import os
from typing import Protocol

from runctl.agent.instance import processes
from runctl.agent.runtime.process_table import ProcessInfo, trainer_family


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
