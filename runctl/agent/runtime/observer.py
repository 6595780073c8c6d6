"""The observer of a process: what the kernel reports besides its exit code."""

import os

from runctl.agent.runtime.lead_process import Lead
from runctl.agent.runtime.memory import MemoryWatch
from runctl.agent.runtime.ports import HiddenFailure
from runctl.agent.runtime.process_events import ProcessEvents
from runctl.agent.runtime.process_table import ProcessInfo
from runctl.agent.runtime.signal_trace import SignalTrace


class ProcessObserver:
    """Observes pipes, signals and lack of memory from before the start until after the end."""

    def __init__(self, trace: SignalTrace) -> None:
        self._events = ProcessEvents()
        self._trace = trace
        self._memory = MemoryWatch(os.getpid())
        self._members: set[int] = set()

    def start(self) -> None:
        """Begin to listen. The process must be started after that."""
        self._events.start()

    def stop(self) -> None:
        """Stop listening."""
        self._events.stop()

    def observe(self, process: Lead) -> str:
        """Record what cannot be seen after the end; return a sentence about new kills, if any."""
        self._memory.follow(process.pid)
        process.end.note_handler(process.pid)
        self._members |= process.watched()
        return self._memory.news()

    def read_memory(self) -> None:
        """Read the counts of kills once more, before the program's group is removed."""
        self._memory.conclude()

    def adopt(self, process: Lead) -> None:
        """Count the processes of a container, which do not descend from the agent, as its own."""
        self._events.adopt(process.family.infos())
        self.observe(process)

    @property
    def memory_problem(self) -> str:
        """A sentence about processes killed for lack of memory, or an empty text."""
        return self._memory.describe()

    def is_helper(self, process: ProcessInfo) -> bool:
        """Whether a process that outlived the program is known to be only a helper of it."""
        return self._events.has_trained_since(process.pid)

    def failure_in_pipe(self, leader: int) -> HiddenFailure | None:
        """Return the failure that a pipe of the process `leader` has hidden."""
        found = self._events.failed_before_pipe(leader)
        if found is None:
            return None
        failed, last = found
        code = failed.exit_code or 0
        ended = f"exited with {code}" if code > 0 else f"ended by signal {-code}"
        return HiddenFailure(
            exit_code=code,
            description=(
                f"{failed.name} {ended}; the shell reported the exit code of {last.name}, "
                "the last command of the pipe"
            ),
        )

    def stopped_by(self) -> str | None:
        """Describe who else sent the program a SIGTERM, "" for nobody; None without a trace."""
        if not self._trace.is_tracing:
            return None
        sent = self._trace.sent_by_others(self._is_member)
        if sent is None:
            return ""
        return (
            f"somebody sent SIGTERM to the trainer (process {sent.target}), "
            f"namely {sent.name} (process {sent.sender})"
        )

    def _is_member(self, pid: int) -> bool:
        return pid in self._members or self._events.is_member(pid) or pid == os.getpid()
