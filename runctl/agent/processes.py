"""The trainer's processes: who descends from whom, who writes what, and how to end them all."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")
# A process in an uninterruptible system call stops only when that returns.
STOP_WITHIN = 1.0
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "busybox"})
WRAPPERS = frozenset({"env", "nohup", "time", "timeout", "nice", "stdbuf", "xvfb-run", "uv", "uvx"})
LAUNCHERS = frozenset({"torchrun", "accelerate", "deepspeed", "horovodrun", "mpirun", "mpiexec"})
LAUNCHER_MODULES = frozenset(
    {"torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch"}
)


def become_subreaper() -> None:
    """Adopt every orphan below us, so that no descendant of the trainer can get away."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants(*roots: int) -> list[int]:
    """Return the living descendants of `roots`, parents before children."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
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
class Killed:
    """What a kill of a whole tree ended: its processes, and the files that they were writing.

    `torn` are paths relative to the folder that was looked at, `writers` the processes that held
    them open.
    """

    pids: tuple[int, ...] = ()
    torn: frozenset[str] = frozenset()
    writers: frozenset[int] = frozenset()


def end_tree(*roots: int, keep_status_of: int = 0, folder: Path | None = None) -> Killed:
    """SIGKILL all descendants of `roots` until none is left; return what that ended.

    They are stopped first, so that what they hold open to write below `folder` is known to the
    last file: what is not open then was closed by its writer. The exit status of `keep_status_of`
    is left to its Popen.
    """
    stopped = _stop_tree(roots)
    held = {} if folder is None else files_held(stopped, folder)
    killed: list[int] = []
    # Repeated, since one that could not be stopped in time may fork between look and signal.
    for _ in range(500):
        alive = descendants(*roots)
        if not alive:
            break
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed += [pid for pid in alive if pid not in killed]
        time.sleep(0.01)
        reap_orphans(keep_status_of)
    return Killed(tuple(killed), frozenset().union(*held.values()), frozenset(held))


def _stop_tree(roots: tuple[int, ...]) -> list[int]:
    """SIGSTOP all descendants of `roots`, parents first; return them once they stand still."""
    stopped: list[int] = []
    until = time.monotonic() + STOP_WITHIN
    while time.monotonic() < until:
        alive = descendants(*roots)
        fresh = [pid for pid in alive if pid not in stopped]
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped += fresh
        if not fresh and all(_stands_still(pid) for pid in alive):
            break
        time.sleep(0.001)
    return stopped


def _stands_still(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return _stat(pid)[0] in {"T", "t", "Z", "X"}
    return True


def reap_orphans(*but: int) -> None:
    """Collect adopted orphans that have ended; those in `but` belong to their Popen."""
    for pid in _pids():
        with contextlib.suppress(OSError, ValueError):
            state, parent = _stat(pid)
            if state == "Z" and parent == os.getpid() and pid not in but:
                os.waitpid(pid, os.WNOHANG)


def end_leftovers(marker: str) -> list[int]:
    """SIGKILL processes of an earlier agent's trainer: those whose environment has `marker`."""
    needle = marker.encode()
    killed = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if pid != os.getpid() and needle in environment and _is_on_this_machine(pid):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    # A signal is not an end: what is still in a system call may yet write to the folder.
    for _ in range(500):
        if not any(_is_alive(pid) for pid in killed):
            break
        time.sleep(0.01)
    return killed


def _is_on_this_machine(pid: int) -> bool:
    """Say whether a process sees our files; on the local cloud other machines' processes do not."""
    return (PROC / str(pid) / "ns/mnt").readlink() == (PROC / "self/ns/mnt").readlink()


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return _stat(pid)[0] not in {"Z", "X"}
    return False


def trainers_of(leader: int) -> list[int]:
    """Return whom to tell to save: the leader, or those that it merely launches.

    A launcher such as torchrun passes SIGTERM on and kills its workers 30 s later, whatever their
    grace; told directly, they save in peace and it follows them. A shell dies at once and leaves
    its child behind, unless it has a trap of its own: then both are told.
    """
    children: dict[int, list[int]] = {}
    for pid in descendants(leader):
        with contextlib.suppress(OSError, ValueError):
            children.setdefault(_stat(pid)[1], []).append(pid)
    targets: list[int] = []
    queue = [leader]
    while queue:
        pid = queue.pop(0)
        role, below = _role(pid), children.get(pid, [])
        if role == "trainer" or not below:
            targets.append(pid)
            continue
        if role == "shell" and catches(pid, signal.SIGTERM):
            targets.append(pid)
        queue += below
    return targets


def _role(pid: int) -> str:
    words = _command_line(pid)
    if not words:
        return "trainer"
    name = Path(words[0]).name.lstrip("-")
    if name in SHELLS:
        return "shell"
    if name in WRAPPERS or name in LAUNCHERS:
        return "launcher"
    if name.startswith(("python", "pypy")):
        return _role_of_python(words[1:])
    return "trainer"


def _role_of_python(words: list[str]) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-m":
            return "launcher" if following in LAUNCHER_MODULES else "trainer"
        if not word.startswith("-"):
            return "launcher" if Path(word).name in LAUNCHERS else "trainer"
    return "trainer"


def open_for_writing(pids: Iterable[int], folder: Path) -> set[str]:
    """Return the paths below `folder`, relative to it, that any of `pids` holds open to write."""
    return set().union(*files_held(pids, folder).values())


def files_held(pids: Iterable[int], folder: Path) -> dict[int, set[str]]:
    """Return which of `pids` hold files below `folder` open to write, by their relative paths."""
    prefix = f"{os.path.realpath(folder)}/"
    found: dict[int, set[str]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(PROC / str(pid) / "fd"):
                with contextlib.suppress(OSError, ValueError):
                    path = str(Path(descriptor.path).readlink())
                    if path.startswith(prefix) and _is_writable(pid, descriptor.name):
                        found.setdefault(pid, set()).add(path[len(prefix) :])
    return found


def _is_writable(pid: int, descriptor: str) -> bool:
    for line in (PROC / str(pid) / "fdinfo" / descriptor).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _command_line(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        content = (PROC / str(pid) / "cmdline").read_bytes()
        return [word.decode(errors="replace") for word in content.split(b"\0")[:-1]]
    return []


def _stat(pid: int) -> tuple[str, int]:
    # The name is in parentheses and may have any character, a parenthesis or a space included.
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def _pids() -> Iterator[int]:
    return (int(path.name) for path in PROC.iterdir() if path.name.isdigit())
