"""The follower of a run, which announces changes until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from runctl.model.checkpoint import name_of
from runctl.model.errors import (
    NotFoundError,
    RequestError,
    RunctlError,
    TransientError,
)
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt, Run
from runctl.report.descriptions import describe_attempt
from runctl.report.log_tail import UNFINISHED_LINE_TIME, LogTail, plain

if TYPE_CHECKING:
    from runctl.aws.ledger import DynamoLedger
    from runctl.aws.logs import LogReader
    from runctl.aws.workflow import Execution, StepFunctions

CHECKPOINT_SECONDS = 10.0  # between two announcements of checkpoints
# Clean-up records the end of a run this long after its execution, or not at all.
CLEAN_UP_TIMEOUT = timedelta(seconds=90)
# The last lines of a trainer reach the log shortly after its end is known.
LAST_LINES = timedelta(seconds=3)


class Tone(Enum):
    """The kind of an announcement, by which a display may choose a colour."""

    NEUTRAL = "neutral"
    PROGRESS = "progress"
    SUCCESS = "success"
    WARNING = "warning"


class Display(Protocol):
    """Where a follower's observations go: a live view, plain lines, or a web page."""

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Show the state of the run."""
        ...

    def announce(self, text: str, tone: Tone = Tone.NEUTRAL) -> None:
        """Announce a change."""
        ...

    def log(self, text: str) -> None:
        """Show a line of the trainer's output."""
        ...


class Source(Protocol):
    """Where a follower reads: the ledger, the executions and the logs of one deployment."""

    @property
    def ledger(self) -> DynamoLedger:
        """The runs and their attempts."""
        ...

    @property
    def workflow(self) -> StepFunctions:
        """The executions."""
        ...

    @property
    def logs(self) -> LogReader:
        """The output of trainers."""
        ...

    @property
    def pause(self) -> float:
        """The seconds between two reads."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether log lines arrive without delay, as they do on the local cloud."""
        ...


@dataclass
class Follower:
    """Follows one execution of a run; attempts up to `after_attempt` are of earlier ones."""

    source: Source
    run_id: str
    execution_arn: str
    display: Display
    after_attempt: int = 0
    sleep: Callable[[float], None] = time.sleep
    _announced: dict[int, str] = field(default_factory=dict)
    _has_begun: bool = False
    _last_checkpoint: tuple[str, float] = ("", -CHECKPOINT_SECONDS)
    _waited: float = 0.0

    def follow(self) -> tuple[Run, list[Attempt]]:
        """Return the run and its attempts when it has ended.

        Raises RequestError if the request was refused before the run began.
        """
        tail = LogTail(self.source.logs, self.run_id)
        failures = 0
        while True:
            try:
                run, attempts = self._read()
                ours = [attempt for attempt in attempts if attempt.number > self.after_attempt]
                live = [attempt for attempt in ours if attempt.ended is None]
                self._announce_changes(run, live)
                self._pass_on(tail, ours)
                has_ended = run is not None and run.ended is not None
                if has_ended:
                    self._wait_for_last_lines(tail, ours)
                # The end of an attempt follows the trainer's last lines.
                self._announce_changes(run, ours)
                if run is not None and has_ended:
                    return run, attempts
                failures = 0
            except TransientError as exc:
                # The run does not depend on this process, so a lost network ends nothing.
                failures += 1
                if failures == 1:
                    self.display.announce(f"{exc}; trying again", Tone.WARNING)
            self._waited += self.source.pause
            self.sleep(min(self.source.pause * 2**failures, 30))

    def _read(self) -> tuple[Run | None, list[Attempt]]:
        run = self.source.ledger.find_run(self.run_id)
        if run is not None and run.execution_arn == self.execution_arn:
            self._has_begun = True
        if not self._has_begun:
            # The ledger holds, if anything, the state in which an earlier execution left the run.
            run = None
        attempts = [] if run is None else self.source.ledger.attempts(self.run_id)
        if run is None or (run.ended is None and self._is_due()):
            self._check_execution(run)
        self.display.show(self.run_id, run, attempts)
        return run, attempts

    def _is_due(self) -> bool:
        """Whether to ask Step Functions as well, which throttles frequent calls."""
        return self._waited % 20 < self.source.pause

    def _check_execution(self, run: Run | None) -> None:
        execution = self.source.workflow.find_execution(self.execution_arn)
        if execution is None:
            # StartExecution is eventually consistent.
            if self._waited > CLEAN_UP_TIMEOUT.total_seconds():
                raise NotFoundError(f"the execution {self.execution_arn} does not exist")
            return
        if execution.is_running:
            return
        now = self.source.ledger.find_run(self.run_id)
        if run is None and (now is None or now.execution_arn != self.execution_arn):
            raise refusal(execution)
        ended_at = execution.ended_at or execution.started_at
        is_overdue = datetime.now(timezone.utc) - ended_at > CLEAN_UP_TIMEOUT
        if is_overdue and (now is None or now.ended is None):
            raise RunctlError(
                f"the execution {execution.name} has ended ({execution.status}), but the ledger "
                f"does not record the end of the run: {execution.cause or 'clean-up did not run'}; "
                "see the log of the function clean_up"
            )

    def _announce_changes(self, run: Run | None, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            state = describe_attempt(attempt)
            if self._announced.get(attempt.number) != state:
                self._announced[attempt.number] = state
                is_bad = attempt.noticed_at is not None or attempt.ended is not None
                is_done = attempt.ended is not None and attempt.ended.kind is OutcomeKind.COMPLETED
                tone = Tone.SUCCESS if is_done else Tone.WARNING if is_bad else Tone.PROGRESS
                self.display.announce(f"attempt {attempt.number} {state}", tone)
        name, announced_at = self._last_checkpoint
        if run is None or run.newest is None or name_of(run.step, run.save) == name:
            return
        if self._waited - announced_at >= CHECKPOINT_SECONDS:
            self._last_checkpoint = (name_of(run.step, run.save), self._waited)
            self.display.announce(f"checkpoint of {name_of(run.step, run.save)}")

    def _pass_on(self, tail: LogTail, attempts: Sequence[Attempt]) -> bool:
        """Pass on new lines of the latest attempts; return whether there were any."""
        found = [*tail.read(attempts[-3:]), *tail.unfinished(after=UNFINISHED_LINE_TIME)]
        lines = [plain(line.text) for _, line in found]
        for line in lines:
            self.display.log(line)
        return bool(lines)

    def _wait_for_last_lines(self, tail: LogTail, attempts: Sequence[Attempt]) -> None:
        for _ in range(round(LAST_LINES.total_seconds() / self.source.pause)):
            self.sleep(self.source.pause)
            if not self._pass_on(tail, attempts) and self.source.is_near:
                break
        for _, line in tail.unfinished():
            self.display.log(plain(line.text))


def refusal(execution: Execution) -> RunctlError:
    """Return the error of an execution that ended before the run began."""
    if execution.status == "FAILED":
        return RequestError(execution.cause or f"the request was refused ({execution.error})")
    return RunctlError(
        f"the execution {execution.name} ended as {execution.status} before the run began"
    )
