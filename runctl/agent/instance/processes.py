"""The trainer's processes: their descent, what they write, and how to end them all."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.open_files import PROC, OpenFileFinder

PR_SET_CHILD_SUBREAPER = 36
# A flag of /proc/PID/stat, from the kernel's include/linux/sched.h.
PF_EXITING = 0x4
# Its place after the name in /proc/PID/stat; only who may trace the process sees it.
EXIT_STATUS_FIELD = 49
# A process in an uninterruptible system call stops only when that returns.
STOP_WITHIN = 1.0


def become_subreaper() -> None:
    """Adopt every orphan below us, so that no descendant of the trainer escapes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(*roots: int) -> list[int]:
    """Return the living descendants of `roots`, parents before children."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        with contextlib.suppress(OSError, ValueError):
            state, parent = _stat(pid)
            if state not in {"Z", "X"}:
                children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = list(roots)
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


@dataclass(frozen=True)
class KilledTree:
    """The processes that a kill of a whole tree has ended, and the files that they were writing.

    `torn` are paths relative to the folder, and `writers` the processes that had them open.
    """

    pids: tuple[int, ...] = ()
    torn: frozenset[str] = frozenset()
    writers: frozenset[int] = frozenset()


def end_all(
    find: Callable[[], list[int]],
    *,
    reap: Callable[[], None] = lambda: None,
    folder: Path | None = None,
) -> KilledTree:
    """SIGKILL the processes that `find` returns until it returns none; return what was ended.

    They are stopped first, so that the files that they have open for writing below `folder` are
    known exactly: all others were closed by their writers. `reap` collects those that have ended.
    """
    stopped = stop_all(find)
    if not stopped:
        return KilledTree()  # the usual case, and reading all of /proc delays the last save
    held = {} if folder is None else OpenFileFinder(folder).by_process(stopped)
    killed: list[int] = []
    # Repeated, since a process that could not be stopped in time may fork before it is killed.
    for _ in range(500):
        alive = find()
        if not alive:
            break
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in alive if pid not in killed]
        time.sleep(0.01)
        reap()
    return KilledTree(tuple(killed), frozenset().union(*held.values()), frozenset(held))


def stop_all(find: Callable[[], list[int]]) -> list[int]:
    """SIGSTOP the processes that `find` returns, parents first; return them once they stopped."""
    stopped: list[int] = []
    until = time.monotonic() + STOP_WITHIN
    while time.monotonic() < until:
        alive = find()
        fresh = [pid for pid in alive if pid not in stopped]
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped += fresh
        if not fresh and all(_has_stopped(pid) for pid in alive):
            break
        time.sleep(0.001)
    return stopped


def _has_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return _stat(pid)[0] in {"T", "t", "Z", "X"}
    return True


def reap_orphans(*excluded: int) -> None:
    """Collect adopted orphans that have ended; those in `excluded` belong to their Popen."""
    for pid in all_pids():
        with contextlib.suppress(OSError, ValueError):
            state, parent = _stat(pid)
            if state == "Z" and parent == os.getpid() and pid not in excluded:
                os.waitpid(pid, os.WNOHANG)


def end_leftovers(marker: str) -> list[int]:
    """SIGKILL processes of an earlier agent's trainer: those whose environment has `marker`."""
    needle = marker.encode()
    killed = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if pid != os.getpid() and needle in environment and _is_on_this_machine(pid):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    # A process that was signalled may still be in a system call that writes to the folder.
    for _ in range(500):
        if not any(is_alive(pid) for pid in killed):
            break
        time.sleep(0.01)
    return killed


def of_user(uid: int, *, control_group: str) -> list[int]:
    """Return the living processes of a user that see our files, or are below a control group.

    The others with its number are in containers which are not ours, or on a machine that is one.
    """
    return [
        pid
        for pid in all_pids()
        if _has_user(pid, uid)
        and is_alive(pid)
        and (_is_on_this_machine(pid) or _is_below(pid, control_group))
    ]


def _has_user(pid: int, uid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("Uid:"):
                return str(uid) in line.split()[1:]
    return False


def _is_below(pid: int, control_group: str) -> bool:
    with contextlib.suppress(OSError):
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
        # From the root: a machine in a container has a group of the same name, somewhere below.
        return any(line.split(":", 2)[2].startswith(f"{control_group}/") for line in lines)
    return False


def _is_on_this_machine(pid: int) -> bool:
    """Whether a process sees our files; on the local cloud those of other machines do not."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "ns/mnt").readlink() == (PROC / "self/ns/mnt").readlink()
    return False


def is_alive(pid: int) -> bool:
    """Whether a process has not ended. A zombie, which only waits to be reaped, has ended."""
    with contextlib.suppress(OSError, ValueError):
        return _stat(pid)[0] not in {"Z", "X"}
    return False


def is_exiting(pid: int) -> bool:
    """Whether a process has ended or is about to: the kernel may have closed its files already."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _fields_of(pid)
        return fields[0] in {"Z", "X"} or bool(int(fields[6]) & PF_EXITING)
    return True


def parent_of(pid: int) -> int:
    """Return the parent of a process, a zombie included; OSError if there is no such process."""
    return _stat(pid)[1]


def exit_code_of_zombie(pid: int) -> int | None:
    """Return the exit code of a process that waits to be reaped, negative for a signal.

    The result is None if it is not one, or if we may not know.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _fields_of(pid)
        if fields[0] == "Z":
            return os.waitstatus_to_exitcode(int(fields[EXIT_STATUS_FIELD]))
    return None


def _stat(pid: int) -> tuple[str, int]:
    fields = _fields_of(pid)
    return fields[0], int(fields[1])


def _fields_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    # The name is in parentheses and may have any character, a parenthesis or a space included.
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def all_pids() -> Iterator[int]:
    """Yield the numbers of all processes that this machine shows us."""
    return (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
