"""Processes that the kernel killed for lack of memory, with the numbers that explain why."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from runctl.agent.instance.processes import is_exiting

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Version 1 reports the largest multiple of a page if there is no limit.
NO_LIMIT = 1 << 62
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class MemoryEvents:
    """The kernel's counts at one moment: kills in the trainer's group, and on the whole machine.

    `killed` is None where the group has no counter, or was removed with its last process.
    """

    killed: int | None = None
    killed_anywhere: int = 0
    limit_bytes: int | None = None
    peak_bytes: int | None = None


class MemoryWatch:
    """Compares the kernel's counts with those before the trainer started.

    The first reading is that of the group of `pid`, the process that will start the trainer: a
    trainer that is killed at once leaves no time to read its own group.
    """

    def __init__(
        self,
        pid: int,
        *,
        proc: Path = PROC,
        cgroups: Path = CGROUPS,
        is_exiting: Callable[[int], bool] = is_exiting,
    ) -> None:
        self._proc = proc
        self._is_exiting = is_exiting
        self._cgroups = cgroups
        self._group, self._version = _group_of(pid, proc, cgroups)
        self._found = self._is_concluded = False
        self._first = self._last = self._read()
        self._reported = 0

    def follow(self, pid: int) -> None:
        """Read the group of the trainer `pid` from now on. It disappears with its last process."""
        group, version = _group_of(pid, self._proc, self._cgroups)
        # A process that is exiting may have left its group already.
        if group is None or self._is_exiting(pid):
            return
        self._found = True
        if group != self._group:
            # systemd has put it into a new scope, whose counters began at 0.
            self._group, self._version = group, version
            self._first = replace(self._first, killed=0)

    def conclude(self) -> None:
        """Read the group of the trainer once more, while it exists, after its last process.

        What is killed elsewhere later is not the trainer's.
        """
        self._update()
        self._is_concluded = self._found and self._group is not None and self._group.is_dir()

    def _update(self) -> None:
        now = self._read()
        self._last = replace(
            now,
            killed=self._last.killed if now.killed is None else now.killed,
            limit_bytes=now.limit_bytes or self._last.limit_bytes,
            peak_bytes=now.peak_bytes or self._last.peak_bytes,
        )

    @property
    def killed(self) -> int:
        """The number of processes that the kernel has killed for lack of memory since the start."""
        anywhere = self._last.killed_anywhere - self._first.killed_anywhere
        if self._last.killed is not None and self._first.killed is not None:
            inside = self._last.killed - self._first.killed
            # A group that was removed was last read before its last kill. If the trainer's group
            # was never found, another group may have been read.
            if inside or self._is_concluded:
                return inside
            if self._found and self._group is not None and self._group.is_dir():
                return inside
        return anywhere

    def describe(self) -> str:
        """Return a sentence with the numbers, or an empty text if no process was killed."""
        self._update()
        if not (count := self.killed):
            return ""
        known = self._last
        limit = f"limit {_size(known.limit_bytes)}" if known.limit_bytes else "no limit of its own"
        peak = f", at most {_size(known.peak_bytes)} used" if known.peak_bytes else ""
        processes = "1 process" if count == 1 else f"{count} processes"
        return (
            f"the kernel killed {processes} of the trainer for lack of memory: {limit}{peak}; "
            f"the machine has {_size(machine_bytes(self._proc))}"
        )

    def news(self) -> str:
        """Return the sentence if more were killed since the last call, or an empty text."""
        text = self.describe()
        if self.killed <= self._reported:
            return ""
        self._reported = self.killed
        return text

    def _read(self) -> MemoryEvents:
        anywhere = _fields(self._proc / "vmstat").get("oom_kill", 0)
        group = self._group
        if group is None:
            return MemoryEvents(killed_anywhere=anywhere)
        if self._version == 2:
            return MemoryEvents(
                killed=_fields(group / "memory.events").get("oom_kill"),
                killed_anywhere=anywhere,
                limit_bytes=self._limit("memory.max"),
                peak_bytes=_number(group / "memory.peak"),
            )
        return MemoryEvents(
            killed=_fields(group / "memory.oom_control").get("oom_kill"),
            killed_anywhere=anywhere,
            limit_bytes=self._limit("memory.limit_in_bytes"),
            peak_bytes=_number(group / "memory.max_usage_in_bytes"),
        )

    def _limit(self, name: str) -> int | None:
        """Return the lowest limit of the group and its ancestors."""
        groups = [] if self._group is None else _ancestors_of(self._group, self._cgroups)
        return min(filter(None, (_number(group / name) for group in groups)), default=None)


def _ancestors_of(group: Path, top: Path) -> list[Path]:
    return [group, *(parent for parent in group.parents if parent.is_relative_to(top))]


def _group_of(pid: int, proc: Path, cgroups: Path) -> tuple[Path | None, int]:
    """Return the memory group of a process, and the version of control groups."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return cgroups / "memory" / path.lstrip("/"), 1
        if number == "0" and not controllers and (cgroups / "cgroup.controllers").exists():
            return cgroups / path.lstrip("/"), 2
    return None, 0


def _fields(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if value.strip().isdigit():
                found[name] = int(value)
    return found


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        value = int(path.read_text())
        return value if value < NO_LIMIT else None
    return None


def machine_bytes(proc: Path = PROC) -> int:
    """Return the memory of the machine, 0 where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0


def _size(size: int | None) -> str:
    size = size or 0
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
