"""The process that a program is started as: its end, and what it has printed."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from runctl.agent.instance.processes import KilledTree
from runctl.agent.runtime.family import Family
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.process_table import ProcessInfo, read_processes
from runctl.model.excerpt import last_lines
from runctl.model.rank_output import exit_code_of_rank, explain_failure

REASON_LINES = 15
# The ranks of eight GPUs print a traceback each, of some 4 kB.
TAIL_BYTES = 64 * 1024
# A process that dies of one of these has not run its own exit. SIGINT is not among them: Python
# ends by it after a KeyboardInterrupt, and only after it has run its exit handlers.
FATAL_SIGNALS = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGHUP,
        signal.SIGILL,
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    }
)


class Lead(Protocol):
    """A process that was started, with the family that it belongs to."""

    @property
    def pid(self) -> int:
        """Its number on this machine."""
        ...

    @property
    def family(self) -> Family:
        """The processes that it has started, and it itself."""
        ...

    @property
    def end(self) -> "LeadEnd":
        """What is known about its end."""
        ...

    @property
    def printed(self) -> "Printed":
        """What it has printed."""
        ...

    def watched(self) -> set[int]:
        """Return the processes that a SIGTERM from outside would be meant for."""
        ...

    def reap(self) -> None:
        """Collect orphans of the family that have ended."""
        ...

    def kill_family(self, folder: Path) -> KilledTree:
        """SIGKILL all that is left; return what that was and what it wrote in `folder`."""
        ...

    def problem(self) -> str:
        """Describe what ended it that neither the kernel nor the program reports, or ""."""
        ...


class LeadEnd:
    """The end of a process: when, with which exit code, and whether by its own will."""

    def __init__(self, command: tuple[str, ...], *, on_exit: Callable[[], None]) -> None:
        self._is_python = ProcessInfo(pid=0, parent=0, words=command).is_python
        self._on_exit = on_exit
        self._handles_sigterm = False
        self._started = time.monotonic()
        self._ended: float | None = None
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal, or None while the process runs."""
        return self._code

    @property
    def lived(self) -> timedelta:
        """How long the process has run, or ran."""
        return timedelta(seconds=self._end() - self._started)

    @property
    def since(self) -> float:
        """The seconds since the exit."""
        return time.monotonic() - self._end()

    def note_exit(self, code: int) -> None:
        """Record the exit, and wake those that wait for it."""
        self._ended = time.monotonic()
        self._code = code
        self._on_exit()

    def note_handler(self, pid: int) -> None:
        """Note whether it handles SIGTERM, which cannot be seen once it has died of one."""
        for info in read_processes([pid]) if self._code is None else ():
            self._handles_sigterm = info.catches(signal.SIGTERM)
            # The entry point of an image may have started it.
            self._is_python = self._is_python or info.is_python

    def was_a_fault(self) -> bool:
        """Whether the process, or the program that its shell ran, died without an exit."""
        code = self._code or 0
        if code > 0 and self._is_python:
            return False
        # A shell or a launcher reports its child's signal as 128 and the signal's number.
        return (-code if code < 0 else code - 128) in FATAL_SIGNALS

    def was_unhandled_sigterm(self) -> bool:
        """Whether it died of a SIGTERM that it does not handle, from any sender.

        A process that does handle it dies of it if it sends it to itself again after its save.
        """
        return self._code == -signal.SIGTERM and not self._handles_sigterm

    def _end(self) -> float:
        return time.monotonic() if self._ended is None else self._ended


class Printed:
    """The files that a program prints to. They also hold what an earlier one has printed."""

    def __init__(self, contract: Contract) -> None:
        self._before = {path: _size_of(path) for path in (contract.errors, contract.output)}

    def last_words(self) -> str:
        """Return the end of its standard error, or of its output if that is empty."""
        for printed in self._ends():
            if words := last_lines(explain_failure(printed), most=REASON_LINES):
                return words
        return ""

    def rank_code(self) -> int | None:
        """Return the exit code of the rank that failed first, if torchrun has reported one."""
        return next(filter(None, map(exit_code_of_rank, self._ends())), None)

    def _ends(self) -> Iterator[str]:
        for path, before in self._before.items():
            with contextlib.suppress(OSError), path.open("rb") as stream:
                stream.seek(max(before, path.stat().st_size - TAIL_BYTES))
                yield stream.read().decode(errors="replace")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
