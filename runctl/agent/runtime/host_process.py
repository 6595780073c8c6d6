"""The process that runs a trainer on this machine, with everything that it starts."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from runctl.agent.instance import processes
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.process_table import ProcessInfo, handles_sigterm
from runctl.agent.runtime.systemd_scope import scope
from runctl.model.errors import RequestError
from runctl.model.excerpt import last_lines

REASON_LINES = 15
TAIL_BYTES = 16 * 1024
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


class HostProcess:
    """The process of a program, and its descendants. It writes to files, never waiting for us."""

    def __init__(self, contract: Contract, *, on_exit: Callable[[], None]) -> None:
        self._errors = contract.errors
        self._output = contract.output
        self._on_exit = on_exit
        # The same files hold what an earlier program of the attempt has printed.
        self._printed_before = {path: _size_of(path) for path in (self._errors, self._output)}
        self._handles_sigterm = False
        self._is_python = ProcessInfo(pid=0, parent=0, words=contract.command).is_python
        try:
            with self._output.open("ab") as out, self._errors.open("ab") as err:
                self._process = subprocess.Popen(
                    [*scope(), *contract.command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**contract.environment, **contract.credentials},
                    cwd=contract.working_folder,
                    start_new_session=True,
                )
        except OSError as exc:
            raise RequestError(
                f"{contract.command[0]!r} cannot be started: {exc.strerror}"
            ) from exc
        with contextlib.suppress(OSError):
            # If memory runs out, the kernel should kill the program and not the agent.
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("500")
        self._started = time.monotonic()
        self._ended: float | None = None
        threading.Thread(target=self._wait, name="trainer", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while the process runs."""
        return self._process.returncode

    def is_running(self) -> bool:
        """Whether the process that was started has not ended."""
        return self._process.returncode is None

    @property
    def lived(self) -> timedelta:
        """How long the process has run, or ran."""
        return timedelta(seconds=self._end() - self._started)

    @property
    def since_exit(self) -> float:
        """The seconds since its exit."""
        return time.monotonic() - self._end()

    def family(self) -> list[int]:
        """Return all its descendants, including those that outlived it."""
        return processes.descendants(os.getpid())

    def note_handler(self) -> None:
        """Note whether it handles SIGTERM, which cannot be seen once it has died of one."""
        if self.is_running():
            self._handles_sigterm = handles_sigterm(self.pid)

    def died_of_a_fault(self) -> bool:
        """Whether the process, or the program that its shell ran, died without an exit."""
        code = self.exit_code or 0
        if code > 0 and self._is_python:
            return False
        # A shell or a launcher reports its child's signal as 128 and the signal's number.
        return (-code if code < 0 else code - 128) in FATAL_SIGNALS

    def died_of_unhandled_sigterm(self) -> bool:
        """Whether it died of a SIGTERM that it does not handle, from any sender.

        A process that does handle it dies of it if it sends it to itself again after its save.
        """
        return self.exit_code == -signal.SIGTERM and not self._handles_sigterm

    def kill_family(self, folder: Path) -> processes.KilledTree:
        """SIGKILL all that is left of it; return what that was and what it wrote in `folder`."""
        killed = processes.end_tree(os.getpid(), keep_status_of=self.pid, folder=folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return killed

    def last_words(self) -> str:
        """Return the end of its standard error, or of its output if that is empty."""
        for path in (self._errors, self._output):
            with contextlib.suppress(OSError), path.open("rb") as stream:
                stream.seek(max(self._printed_before[path], path.stat().st_size - TAIL_BYTES))
                if words := last_lines(stream.read().decode(errors="replace"), most=REASON_LINES):
                    return words
        return ""

    def _end(self) -> float:
        return time.monotonic() if self._ended is None else self._ended

    def _wait(self) -> None:
        self._process.wait()
        self._ended = time.monotonic()
        self._on_exit()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
