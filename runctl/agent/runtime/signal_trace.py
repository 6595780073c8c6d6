"""The kernel's trace of SIGTERM: a trainer that somebody else has sent one has not completed.

It needs root and tracefs. Elsewhere only the trainer's helper reports that it was asked to stop.
"""

import contextlib
import logging
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
PREFIX = "runctl-"
BUFFER_KIB = 16
# The time that a program which handles SIGTERM may take from the signal to its exit.
RECENT = 300.0
LINE = re.compile(
    r"^\s*(?P<name>.+)-(?P<sender>\d+)\s+\[\d+\].*?\s(?P<at>\d+\.\d+): signal_generate: "
    r"sig=15 .*? pid=(?P<target>\d+) "
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """A SIGTERM: its sender, its target, and its time in monotonic seconds."""

    name: str
    sender: int
    target: int
    at: float


def parse_trace(lines: Iterable[str]) -> list[Sent]:
    """Return the signals in a trace; other lines are skipped."""
    return [
        Sent(found["name"], int(found["sender"]), int(found["target"]), float(found["at"]))
        for line in lines
        if (found := LINE.match(line))
    ]


def sent_by_others(
    signals: Iterable[Sent], *, is_member: Callable[[int], bool], now: float
) -> Sent | None:
    """Return the last recent signal to one of the trainer's processes from any other process."""
    others = [
        sent
        for sent in signals
        if is_member(sent.target) and not is_member(sent.sender) and now - sent.at <= RECENT
    ]
    return max(others, key=lambda sent: sent.at, default=None)


class SignalTrace:
    """Traces SIGTERM from `start` to `stop`."""

    def __init__(self, folder: Path = TRACEFS) -> None:
        self._tracefs = folder
        self._instance: Path | None = None
        self._thread = threading.Thread(target=self._begin, name="signal-trace", daemon=True)

    @property
    def is_tracing(self) -> bool:
        """Whether signals are traced. Waits until that is known."""
        self._await_start()
        return self._instance is not None

    def start(self) -> None:
        """Begin to trace in the background, if that is possible: the kernel takes a while."""
        self._thread.start()

    def stop(self) -> None:
        """Stop tracing."""
        self._await_start()
        if self._instance is not None:
            with contextlib.suppress(OSError):
                self._instance.rmdir()
            self._instance = None

    def _await_start(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def _begin(self) -> None:
        instance = self._tracefs / "instances" / f"{PREFIX}{os.getpid()}"
        try:
            self._mount()
            self._remove_leftovers()
            instance.mkdir()
            (instance / "buffer_size_kb").write_text(str(BUFFER_KIB))
            (instance / "trace_clock").write_text("mono")
            event = instance / "events/signal/signal_generate"
            (event / "filter").write_text("sig==15")
            (event / "enable").write_text("1")
        except OSError as exc:
            logger.info("signals from other processes are not visible here: %s", exc)
            with contextlib.suppress(OSError):
                instance.rmdir()
            return
        self._instance = instance

    def sent_by_others(self, is_member: Callable[[int], bool]) -> Sent | None:
        """Return the last recent SIGTERM that none of the trainer's own processes sent."""
        if self._instance is None:
            return None
        try:
            lines = (self._instance / "trace").read_text(errors="replace").splitlines()
        except OSError:
            return None
        return sent_by_others(parse_trace(lines), is_member=is_member, now=time.monotonic())

    def _mount(self) -> None:
        if not (self._tracefs / "instances").is_dir() and self._tracefs.is_dir():
            words = ["mount", "-t", "tracefs", "nodev", str(self._tracefs)]
            subprocess.run(words, capture_output=True, check=False, timeout=10)

    def _remove_leftovers(self) -> None:
        """Remove the trace instances of agents that have ended."""
        for left in (self._tracefs / "instances").glob(f"{PREFIX}*"):
            pid = left.name.removeprefix(PREFIX)
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    left.rmdir()
