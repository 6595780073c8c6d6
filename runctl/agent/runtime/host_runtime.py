"""The host runtime: programs that run as processes of this machine."""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.agent.instance import processes
from runctl.agent.instance.open_files import OpenFileFinder
from runctl.agent.runtime.background import background_process
from runctl.agent.runtime.host_process import HostProcess
from runctl.agent.runtime.observer import ProcessObserver
from runctl.agent.runtime.ports import Contract, Killed, ProgramExit
from runctl.agent.runtime.process_table import trainer_family
from runctl.agent.runtime.signal_trace import SignalTrace
from runctl.agent.runtime.stopping import Stopping, WritingProcesses


class HostProgram:
    """A program that runs as a process of this machine, with its descendants."""

    def __init__(self, process: HostProcess, observer: ProcessObserver, contract: Contract) -> None:
        self._process = process
        self._observer = observer
        self._contract = contract
        self._open_files = OpenFileFinder(contract.checkpoint)
        self._writing = WritingProcesses(contract.checkpoint)
        self._stopping: Stopping | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while the program runs."""
        return self._process.exit_code

    @property
    def lived(self) -> timedelta:
        """How long the program has run, or ran."""
        return self._process.lived

    def is_exiting(self) -> bool:
        """Whether the process has exited or is about to."""
        return processes.is_exiting(self._process.pid)

    def is_busy(self) -> bool:
        """Whether the process runs, or a descendant may still be saving."""
        if self._stopping is not None:
            return self._stopping.is_waiting(leader_runs=self._process.is_running())
        return self._process.is_running() or bool(
            self._writing.left(trainer_family(), time.monotonic())
        )

    def observe(self) -> str:
        """Record what cannot be seen after the exit; return a warning about kills, if any."""
        return self._observer.observe(self._process)

    def request_save(self) -> None:
        """Write the file that the helper watches. Raises OSError if the disk is full."""
        document = json.dumps({"at": datetime.now(timezone.utc).isoformat()})
        self._contract.save_request.write_text(document)

    def request_stop(self, *, before_a_kill: Callable[[], None]) -> None:
        """Send SIGTERM to the processes that handle it, or else to the program."""
        self._stopping = Stopping(self._process.pid, self._contract.checkpoint, self._writing)
        self._stopping.send(before_a_kill=before_a_kill)

    def kill(self) -> Killed:
        """SIGKILL all processes that are left."""
        stopping = self._stopping
        unfinished = stopping is not None and bool(stopping.unfinished)
        killed = self._process.kill_family(self._contract.checkpoint)
        if stopping is None:
            is_abrupt = self._process.died_of_unhandled_sigterm() or bool(killed.writers)
            return Killed(torn=killed.torn, is_abrupt=is_abrupt or self._process.died_of_a_fault())
        return Killed(
            torn=stopping.torn | killed.torn,
            is_abrupt=stopping.ended_abruptly(killed) or self._process.died_of_a_fault(),
            missed_grace=unfinished or bool(killed.torn),
        )

    def writers(self) -> set[str]:
        """Return the files of the checkpoint folder that are open for writing."""
        writing = self._open_files.files(self._process.family())
        # The agent adopts orphans, and has to collect those that have ended now and then.
        processes.reap_orphans(self._process.pid)
        return writing

    def background_process(self) -> str:
        """Describe the process in which the program continues after its exit, if there is one."""
        found = background_process(trainer_family(), since_exit=self._process.since_exit)
        return "" if found is None or self._observer.is_helper(found) else str(found)

    def last_words(self) -> str:
        """Return the end of the standard error, or of the output if that is empty."""
        return self._process.last_words()

    def describe_exit(self) -> ProgramExit:
        """Return what is known about the end."""
        return ProgramExit(
            code=self._process.exit_code or 0,
            stopped_by=self._observer.stopped_by(),
            hidden_failure=self._observer.failure_in_pipe(self._process.pid),
            memory_problem=self._observer.memory_problem,
            last_words=self._process.last_words(),
        )

    def close(self) -> None:
        """Stop observing the processes."""
        self._observer.stop()


class HostRuntime:
    """Starts programs as processes of this machine. `on_exit` is called when one has exited."""

    def __init__(self, *, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._trace = SignalTrace()

    def open(self) -> None:
        """Begin to trace signals."""
        self._trace.start()

    def start(self, contract: Contract) -> HostProgram:
        """Start a program. Raises RequestError if its command cannot be started."""
        observer = ProcessObserver(self._trace)
        observer.start()
        try:
            process = HostProcess(contract, on_exit=self._on_exit)
        except BaseException:
            observer.stop()
            raise
        return HostProgram(process, observer, contract)

    def kill_all(self) -> None:
        """SIGKILL all descendants of the agent, including its own tools."""
        processes.end_tree(os.getpid())

    def close(self) -> None:
        """Stop tracing signals."""
        self._trace.stop()
