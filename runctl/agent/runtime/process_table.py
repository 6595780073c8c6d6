"""The trainer's processes as /proc shows them, with the signals that they handle."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.instance.open_files import PROC

# A flag of /proc/PID/stat: the process runs the program of its parent, as a copy.
FORKED_WITHOUT_EXEC = 0x40

# The sessions of the agent's tools that have one of their own.
_tools: set[int] = set()


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """A process. `caught` has a bit for each signal that it handles or waits for.

    `is_copy` says that it was forked and has started no other program since. `reads` is the pipe
    that is its standard input, and `writes` are those that are its outputs.
    """

    pid: int
    parent: int
    name: str = ""
    words: tuple[str, ...] = ()
    age: float = 0.0
    caught: int = 0
    is_copy: bool = False
    reads: str = ""
    writes: frozenset[str] = frozenset()

    def catches(self, *numbers: signal.Signals) -> bool:
        """Whether it handles all these signals."""
        return all(self.caught >> (number - 1) & 1 for number in numbers)

    @property
    def is_python(self) -> bool:
        """Whether it is a Python interpreter."""
        return Path(self.words[0] if self.words else self.name).name.startswith(("python", "pypy"))

    def __str__(self) -> str:
        program = Path(self.words[0]).name if self.words else self.name
        return f"{self.pid} ({' '.join((program, *self.words[1:]))[:100]})"


def read_processes(pids: Iterable[int]) -> list[ProcessInfo]:
    """Return the processes of `pids`, in this order, without those that have ended."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return [info for pid in pids if (info := _read(pid, now)) is not None]


def trainer_family() -> list[ProcessInfo]:
    """Return the trainer's living processes, parents before children.

    They descend from the agent but are never in its session. The processes there, and in sessions
    that count as its tools, are the agent's own, such as the commit of an environment, which
    continues while the trainer runs.
    """
    return [
        info for info in read_processes(processes.descendants(os.getpid())) if not _is_ours(info)
    ]


@contextlib.contextmanager
def counting_as_tool(leader: int) -> Iterator[None]:
    """Count the processes of a session among the agent's tools; `leader` is its first process."""
    _tools.add(leader)
    try:
        yield
    finally:
        _tools.discard(leader)


def end_all_but_tools() -> None:
    """SIGKILL all descendants of the agent, except the sessions that count as its tools.

    What the agent runs in its own session, such as an installer, has no more use then.
    """

    def find() -> list[int]:
        return [pid for pid in processes.descendants(os.getpid()) if _session(pid) not in _tools]

    processes.end_all(find, reap=lambda: processes.reap_orphans(*_tools))


def _is_ours(info: ProcessInfo) -> bool:
    session = _session(info.pid)
    return session is not None and (session == os.getsid(0) or session in _tools)


def _session(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def is_below(info: ProcessInfo, above: int, family: Sequence[ProcessInfo]) -> bool:
    """Whether `above` is an ancestor of a process in its family."""
    parents = {member.pid: member.parent for member in family}
    pid = info.pid
    for _ in parents:
        pid = parents.get(pid, 0)
        if pid in {above, 0}:
            break
    return pid == above


def _read(pid: int, now: float) -> ProcessInfo | None:
    try:
        name, _, rest = (PROC / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[:-1]
        return ProcessInfo(
            pid=pid,
            parent=int(fields[1]),
            name=name,
            words=tuple(word.decode(errors="replace") for word in words),
            age=now - int(fields[19]) / os.sysconf("SC_CLK_TCK"),
            caught=_caught(pid),
            is_copy=bool(int(fields[6]) & FORKED_WITHOUT_EXEC),
            reads=_pipe(pid, 0),
            writes=frozenset(filter(None, (_pipe(pid, 1), _pipe(pid, 2)))),
        )
    except (OSError, ValueError, IndexError):
        return None


def _caught(pid: int) -> int:
    masks = {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in masks:
            masks[name] = int(value, 16)
    # A program that waits for the signal with sigwait or a descriptor blocks it instead.
    waited_for = masks["SigBlk"] & ~masks["SigIgn"] & 1 << (signal.SIGTERM - 1)
    return masks["SigCgt"] | waited_for


def _pipe(pid: int, descriptor: int) -> str:
    with contextlib.suppress(OSError):
        target = str((PROC / str(pid) / "fd" / str(descriptor)).readlink())
        return target if target.startswith("pipe:") else ""
    return ""
