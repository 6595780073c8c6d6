"""What the kernel tells about a trainer besides its exit code: pipes, signals, lack of memory."""

import logging
import os
import signal

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.memory import MemoryWatch
from runctl.agent.runtime.process_events import ProcessEvents
from runctl.agent.runtime.process_table import ProcessInfo
from runctl.agent.runtime.signal_trace import SignalTrace
from runctl.agent.runtime.trainer import Trainer

logger = logging.getLogger(__name__)


class TrainerObserver:
    """Observes one trainer from before its start until after its end."""

    def __init__(self, progress: Progress, trace: SignalTrace) -> None:
        self._progress = progress
        self._events = ProcessEvents()
        self._trace = trace
        self._memory = MemoryWatch(os.getpid())
        self._members: set[int] = set()

    def start(self) -> None:
        """Begin to listen; what is started from now on is seen."""
        self._events.start()

    def stop(self) -> None:
        """Stop listening."""
        self._events.stop()

    def look(self, trainer: Trainer) -> None:
        """Take note of what is gone once the trainer has ended, and warn of what was killed."""
        self._memory.follow(trainer.pid)
        trainer.note_handler()
        self._members |= {trainer.pid, *trainer.family()}
        if news := self._memory.news():
            self._progress.warn(news, about="memory")
            logger.warning("%s", news)

    @property
    def memory_text(self) -> str:
        """Return a sentence about processes killed for lack of memory, or nothing."""
        return self._memory.describe()

    def went_on_as(self, daemon: ProcessInfo | None) -> ProcessInfo | None:
        """Return the process in which the trainer goes on, unless it turns out to be a helper."""
        if daemon is not None and self._events.has_trained_since(daemon.pid):
            return None
        return daemon

    def failure_in_pipe(self, trainer: Trainer) -> tuple[int, str] | None:
        """Return the exit code that a pipe has hidden, with a sentence about it."""
        found = self._events.failed_before_pipe(trainer.pid)
        if found is None:
            return None
        failed, last = found
        code = failed.exit_code or 0
        ended = f"exited with {code}" if code > 0 else f"ended by signal {-code}"
        return code, (
            f"{failed.name} {ended}; the shell reported the exit code of {last.name}, "
            "the last command of the pipe"
        )

    def stop_request(self, trainer: Trainer, *, helper_was_asked: bool) -> str:
        """Return who sent the trainer a SIGTERM that did not come from us, or nothing.

        `helper_was_asked` counts where signals are not traced: the helper does not know who sent
        one, and some programs signal themselves.
        """
        if self._trace.is_tracing:
            sent = self._trace.sent_by_others(self._is_member)
            if sent is None:
                return ""
            return (
                f"somebody sent SIGTERM to the trainer (process {sent.target}), "
                f"namely {sent.name} (process {sent.sender})"
            )
        code = trainer.exit_code or 0
        if helper_was_asked and code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}:
            return "somebody sent SIGTERM to the trainer"
        return ""

    def _is_member(self, pid: int) -> bool:
        return pid in self._members or self._events.is_member(pid) or pid == os.getpid()
