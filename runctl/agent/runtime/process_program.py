"""The program of a runtime that sees its processes: on the host, or in a container."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.agent.instance import processes
from runctl.agent.instance.open_files import OpenFileFinder
from runctl.agent.runtime.background import background_process
from runctl.agent.runtime.lead_process import Lead
from runctl.agent.runtime.observer import ProcessObserver
from runctl.agent.runtime.ports import Contract, Killed, ProgramExit
from runctl.agent.runtime.stopping import Stopping, WritingProcesses
from runctl.beneath.changes import rewrite


class ProcessProgram:
    """A program that runs as a process which this machine sees, with its family."""

    def __init__(
        self,
        process: Lead,
        observer: ProcessObserver,
        contract: Contract,
        *,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the process over; `release` is called at its close."""
        self._process = process
        self._observer = observer
        self._contract = contract
        self._open_files = OpenFileFinder(contract.checkpoint)
        self._writing = WritingProcesses(contract.checkpoint)
        self._stopping: Stopping | None = None
        self._release = release

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while the program runs."""
        return self._process.end.code

    @property
    def lived(self) -> timedelta:
        """How long the program has run, or ran."""
        return self._process.end.lived

    def is_exiting(self) -> bool:
        """Whether the process has exited or is about to."""
        return processes.is_exiting(self._process.pid)

    def is_busy(self) -> bool:
        """Whether the process runs, or a descendant may still be saving."""
        is_running = self.exit_code is None
        if self._stopping is not None:
            return self._stopping.is_waiting(leader_runs=is_running)
        return is_running or bool(
            self._writing.left(self._process.family.infos(), time.monotonic())
        )

    def observe(self) -> str:
        """Record what cannot be seen after the exit; return a warning about kills, if any."""
        return self._observer.observe(self._process)

    def request_save(self) -> None:
        """Write the file that the helper watches.

        Raises OSError if the disk is full, or if the trainer has replaced the file.
        """
        document = json.dumps({"at": datetime.now(timezone.utc).isoformat()})
        rewrite(self._contract.save_request, document.encode())

    def request_stop(self, *, before_a_kill: Callable[[], None]) -> None:
        """Send SIGTERM to the processes that handle it, or else to the program."""
        process = self._process
        self._stopping = Stopping(
            process.family, process.pid, self._contract.checkpoint, self._writing
        )
        self._stopping.send(before_a_kill=before_a_kill)

    def end_waiting_leader(self) -> None:
        """Send SIGTERM to the process if all that were signalled have ended without it."""
        if self._stopping is not None:
            self._stopping.end_waiting_leader()

    def kill(self) -> Killed:
        """SIGKILL all processes that are left."""
        self._observer.read_memory()
        stopping, end = self._stopping, self._process.end
        unfinished = stopping is not None and bool(stopping.unfinished)
        killed = self._process.kill_family(self._contract.checkpoint)
        if stopping is None:
            is_abrupt = end.was_unhandled_sigterm() or bool(killed.writers)
            return Killed(torn=killed.torn, is_abrupt=is_abrupt or end.was_a_fault())
        return Killed(
            torn=stopping.torn | killed.torn,
            # The launcher that is killed saves nothing.
            is_abrupt=stopping.ended_abruptly(killed)
            or (end.was_a_fault() and not stopping.left_a_launcher),
            missed_grace=unfinished or bool(killed.torn),
        )

    def pids(self) -> list[int]:
        """Return its living processes by their numbers on this machine."""
        return self._process.family.pids()

    def writers(self) -> set[str]:
        """Return the files of the checkpoint folder that are open for writing."""
        writing = self._open_files.files(self._process.family.pids())
        self._process.reap()
        return writing

    def background_process(self) -> str:
        """Describe the process in which the program continues after its exit, if there is one."""
        process = self._process
        found = background_process(process.family.infos(), since_exit=process.end.since)
        return "" if found is None or self._observer.is_helper(found) else str(found)

    def last_words(self) -> str:
        """Return the end of the standard error, or of the output if that is empty."""
        return self._process.printed.last_words()

    def describe_exit(self) -> ProgramExit:
        """Return what is known about the end."""
        process = self._process
        return ProgramExit(
            code=process.end.code or 0,
            rank_code=process.printed.rank_code(),
            stopped_by=process.problem() or self._observer.stopped_by(),
            hidden_failure=self._observer.failure_in_pipe(process.pid),
            memory_problem=self._observer.memory_problem,
            last_words=process.printed.last_words(),
        )

    def close(self) -> None:
        """Stop observing the processes."""
        self._observer.stop()
        self._release()
