"""The control groups of a machine, in each hierarchy of this system, removed by their name."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_PREFIX = "runctl-machine-"
_REMOVAL_SECONDS = 10.0


class ControlGroups:
    """The groups of one machine; the name has the process that creates them, and the instance."""

    def __init__(self, instance_id: str) -> None:
        self._name = f"{_PREFIX}{os.getpid()}-{instance_id}"
        self.unified = _unified() / self._name

    def create(self, *, memory_bytes: int) -> list[Path]:
        """Create the groups that a machine starts in; 0 bytes are no limit.

        Raises OSError if the system has no controller for the limit.
        """
        self.unified.mkdir(exist_ok=True)
        entered = [self.unified]
        if memory_bytes:
            limit = self.unified / "memory.max"
            if not limit.exists():  # a system with the controllers of version 1
                # Below the one of this process, whose limits hold then, too.
                group = _own(_MOUNT / "memory", "memory") / self._name
                group.mkdir(exist_ok=True)
                limit = group / "memory.limit_in_bytes"
                entered.append(group)
            limit.write_text(str(memory_bytes))
        return entered

    def leader(self) -> int | None:
        """Return the machine's first process, None if it has not started or has ended."""
        return _leader(self.unified)

    def remove(self) -> None:
        """Remove the groups, whose processes have been killed."""
        _remove(self._name)


def leader_of(instance_id: str) -> int | None:
    """Return the first process of an instance that is a machine, if it has one."""
    found = _unified().glob(f"{_PREFIX}*-{instance_id}")
    return next(filter(None, map(_leader, found)), None)


def remove_abandoned() -> None:
    """Remove the groups of machines whose supervisor was killed; their processes ended with it."""
    for name in {group.name for parent in _parents() for group in parent.glob(f"{_PREFIX}*")}:
        pid = name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid, "exe").exists():  # also if nobody has waited for it yet
            _remove(name)


def left() -> list[str]:
    """List the control groups of machines, running or abandoned."""
    return [str(group) for parent in _parents() for group in parent.glob(f"{_PREFIX}*")]


def _leader(group: Path) -> int | None:
    try:
        return int((group / "payload/init.scope/cgroup.procs").read_text().split()[0])
    except (OSError, IndexError):
        return None


def _remove(name: str) -> None:
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while left := [parent / name for parent in _parents() if (parent / name).is_dir()]:
        for group in left:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # what was killed takes a moment to be gone
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _parents() -> Iterator[Path]:
    """Yield the folders that can have a machine's groups."""
    yield _unified()
    # nspawn creates a group of the same name for itself in systemd's own hierarchy.
    for folder, controller in ((_MOUNT / "systemd", "name=systemd"), (_MOUNT / "memory", "memory")):
        if folder.is_dir():
            yield _own(folder, controller)


def _unified() -> Path:
    """Return where version 2 is mounted: besides the controllers of version 1, or alone."""
    beside = _MOUNT / "unified"
    return beside if beside.is_dir() else _MOUNT


def _own(mount: Path, controller: str) -> Path:
    """Return the group of this process in a hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return mount / path.lstrip("/")
    return mount
