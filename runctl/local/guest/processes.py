"""Starting a process on an instance, and ending it with all its descendants."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_EXEC_FAILED = 203  # what systemd reports if it cannot execute a unit's program


def read_description() -> Any:
    """Return the JSON document in the first line of standard input, None if that ends before.

    What follows the line stays unread.
    """
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    return json.loads(line)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, whatever its session."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def spawn(
    argv: list[str], *, env: Mapping[str, str], cwd: Path, output: Path, errors: Path | None = None
) -> int:
    """Start a program in its own session and return its process id."""
    pid = os.fork()
    if not pid:
        _become(argv, env=env, cwd=cwd, output=output, errors=errors)
    return pid


def _become(
    argv: list[str], *, env: Mapping[str, str], cwd: Path, output: Path, errors: Path | None
) -> NoReturn:
    try:
        os.setsid()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if errors else 1, 2)
        os.closerange(3, 4096)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, dict(env))  # noqa: S606 - the program that the unit names
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def reap() -> list[tuple[int, int]]:
    """Collect every child that has ended, as (process id, exit status); 128 + n for signal n."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = found
            code = os.waitstatus_to_exitcode(status)
            ended.append((pid, code if code >= 0 else 128 - code))
    return ended


def descendants(pid: int) -> list[int]:
    """List the living processes that descend from `pid`."""
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it ended meanwhile
        children.setdefault(int(parent), []).append(int(entry.name))
        if state in "ZX":
            dead.add(int(entry.name))
    found, pending = [], [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            found.append(child)
            pending.append(child)
    return [pid for pid in found if pid not in dead]


def send(pids: Iterable[int], signum: signal.Signals) -> None:
    """Signal processes, some of which may have ended meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def kill_descendants() -> list[tuple[int, int]]:
    """Kill everything below this process until nothing is left; return what was reaped."""
    ended = []
    while left := descendants(os.getpid()):
        # A process may fork between the scan and the kill: hence the loop.
        send(left, signal.SIGKILL)
        ended += reap()
        time.sleep(0.002)
    return ended + reap()
