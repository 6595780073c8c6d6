"""The pulses of a node's ranks: what their helper counts, and what the kernel shows of them."""

import contextlib
import math
import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runctl.agent.gang.connections import connected
from runctl.agent.instance.open_files import PROC
from runctl.beneath.paths import open_file
from runctl.model.gang import RankPulse

# As the trainer's helper writes them (runctl/hooks/pulse.py).
LAYOUT = struct.Struct("<QQdd")
LOCAL_RANK = "LOCAL_RANK"
# A rank that waits in Gloo uses 0.3% of a processor, and one that uploads something a few percent.
BUSY_SHARE = 0.01
BUSY_BYTES = 4096
# The kernel counts in hundredths of a second, so that less would be chance.
WINDOW = 10.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class GangProgram:
    """A program with several ranks: its living processes, and the rendezvous that they join.

    `ranks` is their number on this node. With `has_launcher`, torchrun starts them, after it has
    found the launchers of the other nodes.
    """

    pids: Callable[[], Iterable[int]]
    address: str
    port: int
    ranks: int = 1
    has_launcher: bool = True


@dataclass(frozen=True)
class _Usage:
    """What a process has used so far: ticks of processors, and bytes read and written."""

    ticks: int
    moved: int
    is_stopped: bool
    is_in_disk: bool
    parent: int


@dataclass
class _Activity:
    """When a rank was last seen to work; `usage` is what it had used at `since`."""

    at: float
    since: float
    usage: dict[int, _Usage] = field(default_factory=dict)

    def note(self, usage: dict[int, _Usage], now: float) -> None:
        before = self.usage
        ticks = sum(max(0, used.ticks - _ticks(before, pid)) for pid, used in usage.items())
        moved = sum(max(0, used.moved - _moved(before, pid)) for pid, used in usage.items())
        enough = BUSY_SHARE * max(WINDOW, now - self.since) * CLOCK_TICKS
        is_new = not usage.keys() <= before.keys()
        in_disk = any(used.is_in_disk for used in usage.values())
        is_at_work = is_new or in_disk or ticks >= enough or moved >= BUSY_BYTES
        if is_at_work:
            self.at = now
        if is_at_work or now - self.since >= WINDOW:
            self.since, self.usage = now, usage


class Pulses:
    """Reads the signs of life of the ranks of this node, while a program runs."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._program: GangProgram | None = None
        self._ranks_of: dict[int, int | None] = {}
        self._activities: dict[int, _Activity] = {}
        self._joined: set[int] = set()
        self._has_workers = False

    def begin(self, program: GangProgram) -> None:
        """Begin to read the pulses of a program, which was just started."""
        self._ranks_of.clear()
        self._activities.clear()
        self._joined.clear()
        self._has_workers = False
        self._program = program

    def end(self) -> None:
        """Read no more of it: it has ended."""
        self._program = None

    @property
    def has_launcher(self) -> bool:
        """Whether torchrun has started the program that runs."""
        return self._program is not None and self._program.has_launcher

    def read(self) -> tuple[RankPulse, ...]:
        """Return the pulses by local rank; none before the launchers have found each other."""
        program = self._program
        if program is None:
            return ()
        pids = list(program.pids())
        by_rank = self._by_rank(pids)
        self._has_workers = self._has_workers or bool(by_rank)
        if not self._has_workers:
            if program.has_launcher:
                found = connected(pids, program.address, program.port)
                return (RankPulse(),) * program.ranks if found else ()
            by_rank = {0: pids}
        count = max(program.ranks, *(rank + 1 for rank in by_rank)) if by_rank else program.ranks
        return tuple(self._pulse(rank, by_rank.get(rank, []), program) for rank in range(count))

    def _pulse(self, rank: int, pids: list[int], program: GangProgram) -> RankPulse:
        now = self._clock()
        entered, left, busy, changed = self._counts(rank)
        usage = {pid: used for pid in pids if (used := _usage(pid)) is not None}
        activity = self._activities.setdefault(rank, _Activity(now, now))
        activity.note(usage, now)
        if rank not in self._joined and connected(pids, program.address, program.port):
            self._joined.add(rank)
        # Those that its main process has started need not be stopped.
        roots = [used for used in usage.values() if used.parent not in usage]
        return RankPulse(
            entered=entered,
            left=left,
            busy_seconds=busy,
            idle_seconds=max(0.0, now - changed) if changed else 0.0,
            has_joined=rank in self._joined,
            still_seconds=now - activity.at,
            is_suspended=bool(roots) and all(used.is_stopped for used in roots),
        )

    def _counts(self, rank: int) -> tuple[int, int, float, float]:
        """Return what the helper has written; zeros without it."""
        with contextlib.suppress(OSError, struct.error):
            file = open_file(self._folder / f"rank-{rank}")  # a trainer may have replaced it
            try:
                content = os.read(file, LAYOUT.size + 1)
            finally:
                os.close(file)
            entered, left, busy, changed = LAYOUT.unpack(content)
            if math.isfinite(busy) and math.isfinite(changed):
                return entered, left, busy, changed
        return 0, 0, 0.0, 0.0

    def _by_rank(self, pids: list[int]) -> dict[int, list[int]]:
        """Return the processes of each rank: what launchers start know theirs by a variable."""
        self._ranks_of = {pid: rank for pid, rank in self._ranks_of.items() if pid in pids}
        found: dict[int, list[int]] = {}
        for pid in pids:
            rank = self._ranks_of.get(pid)
            if rank is None:
                # A process may just be about to become another program.
                rank = self._ranks_of[pid] = _local_rank(pid)
            if rank is not None:
                found.setdefault(rank, []).append(pid)
        return found


def _local_rank(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        prefix = f"{LOCAL_RANK}=".encode()
        for variable in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if variable.startswith(prefix):
                return int(variable[len(prefix) :])
    return None


def _usage(pid: int) -> _Usage | None:
    try:
        state, parent, *rest = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        moved = 0
        with contextlib.suppress(PermissionError):
            lines = (PROC / str(pid) / "io").read_text().splitlines()
            moved = sum(int(line.split()[1]) for line in lines[:2])
        return _Usage(
            ticks=int(rest[9]) + int(rest[10]),
            moved=moved,
            is_stopped=state in {"T", "t"},
            is_in_disk=state == "D" or _has_thread_in_disk(pid),
            parent=int(parent),
        )
    except (OSError, ValueError, IndexError):
        return None


def _has_thread_in_disk(pid: int) -> bool:
    """Whether a thread waits for a disk: it flushes what it has written."""
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                    return True
    return False


def _ticks(usage: dict[int, _Usage], pid: int) -> int:
    return usage[pid].ticks if pid in usage else 0


def _moved(usage: dict[int, _Usage], pid: int) -> int:
    return usage[pid].moved if pid in usage else 0
