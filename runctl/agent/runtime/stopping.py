"""Stopping: SIGTERM to a program's processes, and the wait for those that may still be saving."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.instance.open_files import OpenFileFinder
from runctl.agent.runtime.family import Family
from runctl.agent.runtime.process_table import ProcessInfo, is_below, read_processes
from runctl.agent.runtime.stop_targets import (
    StopTargets,
    choose_targets,
    is_bystander,
    is_launcher_of_torch,
    launched_by,
)

# The time that a launcher has to forward a signal before its program handles its own copy of it.
COALESCE = 0.2
SEARCH_EVERY = 0.25
# When copies are signalled, if their parent has handled the signal and has not ended.
LATER = 5.0
# A writer that has closed a file may be about to open the next.
QUIET = 0.5
# The time that a program may take from its start to the first file that it opens.
STARTUP = 10.0
STARTUP_OF_A_COPY = 1.0
# The time that torch's launcher has to end after its ranks have. It waits for the launchers of the
# other nodes: for five minutes if one of them was killed.
LAUNCHER_EXIT = 2.0
# The time that a server's main process has to end after the processes that handled the signal.
LEADER_EXIT = 2.0

logger = logging.getLogger(__name__)


class WritingProcesses:
    """Knows which processes are writing to the checkpoint folder, or may be about to."""

    def __init__(self, folder: Path) -> None:
        self._open_files = OpenFileFinder(folder)
        self._wrote_at: dict[int, float] = {}
        self._logged: set[int] = set()

    def among(self, family: Sequence[ProcessInfo], now: float) -> list[ProcessInfo]:
        """Return those that write now or did a moment ago, and those that have just begun."""
        for pid in self._open_files.by_process(info.pid for info in family):
            self._wrote_at[pid] = now
        return [
            info
            for info in family
            if now - self._wrote_at.get(info.pid, float("-inf")) < QUIET
            or (_has_just_begun(info) and not is_bystander(info, family))
        ]

    def left(self, family: Sequence[ProcessInfo], now: float) -> list[ProcessInfo]:
        """Return the same after the program's exit, and log which processes are waited for."""
        writing = self.among(family, now)
        if new := [info for info in writing if info.pid not in self._logged]:
            logger.info(
                "the trainer has exited; waiting for %s, which may be saving",
                ", ".join(map(str, new)),
            )
            self._logged |= {info.pid for info in new}
        return writing


def _has_just_begun(info: ProcessInfo) -> bool:
    return info.age < (STARTUP_OF_A_COPY if info.is_copy else STARTUP)


class Stopping:
    """Asks a program to save and end, and knows which of its processes to wait for."""

    def __init__(
        self, family: Family, leader: int, folder: Path, writing: WritingProcesses
    ) -> None:
        self._family = family
        self._leader = leader
        self._folder = folder
        self._writing = writing
        # The processes that there were when the first was signalled.
        self._before: frozenset[int] = frozenset()
        # Whether each process that was signalled handles SIGTERM.
        self._signalled: dict[int, bool] = {}
        self._later: tuple[int, ...] = ()
        self._sent_at = self._searched_at = float("-inf")
        self._launcher_left_at: float | None = None
        self._leader_left_at: float | None = None
        self.torn: frozenset[str] = frozenset()

    def send(self, *, before_a_kill: Callable[[], None]) -> None:
        """Send SIGTERM to all processes that handle it, or else to the leader, which dies of it.

        In the second case `before_a_kill` is called first.
        """
        family = self._family.infos()
        self._before = frozenset(info.pid for info in family)
        targets = choose_targets(family, self._leader)
        self._later = targets.later
        self._sent_at = time.monotonic()
        if any(info.catches(signal.SIGTERM) for info in family if info.pid in targets.now):
            self._signal(targets.now, family)
            return
        # They die at once, even in the middle of a save: the files that they have open are torn.
        before_a_kill()
        stopped = processes.stop_all(self._family.pids)
        try:
            held = OpenFileFinder(self._folder).by_process(targets.now)
            self.torn = frozenset().union(*held.values())
            self._signal(targets.now, family)
        finally:
            for pid in stopped:
                _kill(pid, signal.SIGCONT)

    def is_waiting(self, *, leader_runs: bool) -> bool:
        """Whether the program, or a process that may be saving for it, has yet to end."""
        now = time.monotonic()
        if leader_runs:
            if now - self._searched_at >= SEARCH_EVERY:
                self._signal_new(now)
            left_at = self._launcher_left_at
            return left_at is None or now - left_at < LAUNCHER_EXIT
        if any(processes.is_alive(pid) for pid in self._signalled):
            return True
        return bool(self._writing.left(self._family.infos(), now))

    def end_waiting_leader(self) -> None:
        """Send SIGTERM to a leader that has outlived all processes which were signalled.

        Without a handler it dies of it, and cuts nothing off: what could finish has done so. What
        it has started since the first signals, such as the next command of a script, is left alone.
        """
        if not self._signalled or any(processes.is_alive(pid) for pid in self._signalled):
            return
        now = time.monotonic()
        if self._leader_left_at is None:
            self._leader_left_at = now
        if now - self._leader_left_at < LEADER_EXIT:
            return
        self._leader_left_at = None
        family = self._family.infos()
        waiting = launched_by(family, self._leader)
        if chosen := [pid for pid in waiting if pid in self._before]:
            logger.info("what handled SIGTERM has ended; the main process has not")
            self._signal(chosen, family)

    def ended_abruptly(self, killed: processes.KilledTree) -> bool:
        """Whether a process that was signalled, or was writing, died without running its exit."""
        unaware = not all(self._signalled.values())
        return unaware or bool({*self._signalled, *killed.writers} & {*killed.pids})

    @property
    def left_a_launcher(self) -> bool:
        """Whether all has ended but torch's launcher, which waits for the other nodes'."""
        return self._launcher_left_at is not None

    @property
    def unfinished(self) -> list[int]:
        """The processes that handle SIGTERM and have not ended yet."""
        return [
            pid for pid, handles in self._signalled.items() if handles and processes.is_alive(pid)
        ]

    def _signal_new(self, now: float) -> None:
        """Signal processes that have started or installed a handler since the first signals."""
        self._searched_at = now
        if not any(self._signalled.values()):
            return
        family = self._family.infos()
        if self._is_launcher_alone(family):
            if self._launcher_left_at is None:
                self._launcher_left_at = now
            return
        self._launcher_left_at = None
        targets = choose_targets(family, self._leader)
        fresh = [
            info.pid
            for info in family
            if info.pid in targets.now
            and info.pid not in self._signalled
            and info.catches(signal.SIGTERM)
            # A process that a signalled program has started belongs to its save; so may an orphan.
            and not any(is_below(info, pid, family) for pid in self._signalled)
            and (info.pid == self._leader or is_below(info, self._leader, family))
        ]
        if fresh:
            self._signal(fresh, family)
        if self._later and now - self._sent_at >= LATER:
            later, self._later = self._later, ()
            alive = [info.pid for info in family if info.pid in later]
            if alive and not self._writing.among(family, now):
                logger.info("the trainer has not ended: SIGTERM to its copies, too")
                self._signal(alive, family)

    def _is_launcher_alone(self, family: Sequence[ProcessInfo]) -> bool:
        """Whether only torch's launcher is left, which a signal would keep from waiting."""
        left = [info for info in family if not is_bystander(info, family)]
        launchers = [info for info in left if is_launcher_of_torch(info)]
        if not launchers or any(info.pid in self._signalled for info in launchers):
            return False
        # Shells and the like only wait for it.
        return all(info in launchers or is_below(launchers[0], info.pid, family) for info in left)

    def _signal(self, pids: Iterable[int], family: Sequence[ProcessInfo]) -> None:
        known = {info.pid: info for info in family}
        chosen = [known[pid] for pid in pids if pid in known]
        self._signalled |= {info.pid: info.catches(signal.SIGTERM) for info in chosen}
        logger.info("SIGTERM to %s", ", ".join(map(str, chosen)) or "no process")
        send_once(chosen, family)


def send_once(chosen: Sequence[ProcessInfo], family: Sequence[ProcessInfo]) -> None:
    """Send SIGTERM to each process, so that none of them handles it twice.

    A process may get the signal from an ancestor that is signalled as well. It is stopped for a
    moment, in which the kernel merges the second signal with the first.
    """
    above = [info.pid for info in chosen]
    nested = [info for info in chosen if any(is_below(info, pid, family) for pid in above)]
    for info in nested:
        _kill(info.pid, signal.SIGSTOP)
    try:
        for info in chosen:
            _kill(info.pid, signal.SIGTERM)
        if nested:
            time.sleep(COALESCE)
    finally:
        for info in nested:
            _kill(info.pid, signal.SIGCONT)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def targets_of(pid: int) -> tuple[list[ProcessInfo], StopTargets]:
    """Return a process with its descendants, and the targets of SIGTERM among them."""
    family = read_processes([pid, *processes.descendants(pid)])
    return family, choose_targets(family, pid)
