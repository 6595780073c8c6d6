"""A runtime without processes: it records a session's calls, and does what a test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from runctl.agent.runtime.ports import Contract, Killed, ProgramExit


@dataclass
class RecordingProgram:
    """A program that runs until the test, or `when_stopped`, calls `exit`.

    `calls` are the methods that change something, in order. `open_files` are the files
    that `writers` returns and that a kill tears. `lingering` are the steps of a process that
    outlives the exit, one for each call of `is_busy`.
    """

    contract: Contract
    on_exit: Callable[[], None] = lambda: None
    calls: list[str] = field(default_factory=list)
    exit_code: int | None = None
    open_files: set[str] = field(default_factory=set)
    lingering: list[Callable[[], None]] = field(default_factory=list)
    handles_stop: bool = True
    when_stopped: Callable[[], None] = lambda: None
    when_observed: Callable[[], str] = lambda: ""
    words: str = ""
    background: str = ""
    lived: timedelta = timedelta(seconds=5)

    def exit(self, code: int) -> None:
        self.exit_code = code
        self.on_exit()

    def is_exiting(self) -> bool:
        return self.exit_code is not None

    def is_busy(self) -> bool:
        if self.exit_code is None:
            return True
        if self.lingering:
            self.lingering.pop(0)()
            return True
        return False

    def observe(self) -> str:
        return self.when_observed()

    def request_save(self) -> None:
        self.calls.append("request_save")

    def request_stop(self, *, before_a_kill: Callable[[], None]) -> None:
        self.calls.append("request_stop")
        if not self.handles_stop:
            before_a_kill()
        self.when_stopped()

    def end_waiting_leader(self) -> None:
        pass

    def kill(self) -> Killed:
        self.calls.append("kill")
        is_cut_off = self.exit_code is None or bool(self.lingering)
        if self.exit_code is None:
            self.exit_code = -9
        return Killed(
            torn=frozenset(self.open_files),
            is_abrupt=is_cut_off or not self.handles_stop,
            missed_grace=is_cut_off and "request_stop" in self.calls,
        )

    def pids(self) -> list[int]:
        return []

    def writers(self) -> set[str]:
        return set(self.open_files)

    def background_process(self) -> str:
        return self.background

    def last_words(self) -> str:
        return self.words

    def describe_exit(self) -> ProgramExit:
        return ProgramExit(code=self.exit_code or 0, stopped_by="", last_words=self.words)

    def close(self) -> None:
        self.calls.append("close")


class RecordingRuntime:
    """Starts recording programs; `setup` receives each program before its session uses it."""

    def __init__(
        self,
        on_exit: Callable[[], None] = lambda: None,
        *,
        setup: Callable[[RecordingProgram], None] = lambda _program: None,
    ) -> None:
        self._on_exit = on_exit
        self._setup = setup
        self.calls: list[str] = []
        self.programs: list[RecordingProgram] = []

    def open(self) -> None:
        self.calls.append("open")

    def start(self, contract: Contract) -> RecordingProgram:
        self.calls.append("start")
        program = RecordingProgram(contract, on_exit=self._on_exit)
        self._setup(program)
        self.programs.append(program)
        return program

    def kill_all(self) -> None:
        self.calls.append("kill_all")

    def close(self) -> None:
        self.calls.append("close")
