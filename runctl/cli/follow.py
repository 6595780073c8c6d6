"""Following a run until it ends: look, tell what changed, and leave it going on Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Protocol

from runctl.cli.cloud import Cloud
from runctl.cli.display.reasons import brief
from runctl.model.checkpoint import name_of
from runctl.model.errors import (
    NotFoundError,
    RefusedError,
    RequestError,
    RunctlError,
    TransientError,
)
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.report.log_tail import LINE_PATIENCE, LogTail, plain
from runctl.report.wording import say_duration

if TYPE_CHECKING:
    from rich.console import Console

    from runctl.aws.workflow import Execution

CHECKPOINT_SECONDS = 10.0  # between two lines about checkpoints
# An execution that ended without an end in the ledger: clean-up is under way, or was lost.
PATIENCE = timedelta(seconds=90)
# The last lines of a trainer reach the log a moment after its end is known.
LAST_LINES = timedelta(seconds=3)


class Display(Protocol):
    """Where a follower shows what it sees: a live view on a terminal, else plain lines."""

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Show how the run stands."""
        ...

    def tell(self, text: str, *, style: str = "") -> None:
        """Tell what has happened."""
        ...

    def say(self, text: str) -> None:
        """Pass on a line of the trainer."""
        ...


class PlainDisplay:
    """Lines, each once."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Show nothing: what changes is told."""

    def tell(self, text: str, *, style: str = "") -> None:
        """Print a line marked as ours."""
        self._console.print(f"── {text}", style=style or "dim", soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line of the trainer as it is."""
        self._console.print(text, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """The same lines, above a view that is drawn anew."""

    def __init__(self, console: Console, update: Callable[..., None]) -> None:
        super().__init__(console)
        self._update = update

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Draw the view."""
        from runctl.cli.display.view import following_view

        self._update(following_view(run_id, run, attempts, now=datetime.now(timezone.utc)))


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """Return the display that suits where stderr goes."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(console, live.update)


@dataclass
class Follower:
    """Follows one execution of a run; attempts up to `after_attempt` are of earlier ones."""

    cloud: Cloud
    run_id: str
    execution_arn: str
    display: Display
    after_attempt: int = 0
    sleep: Callable[[float], None] = time.sleep
    _told: dict[int, str] = field(default_factory=dict)
    _has_begun: bool = False
    _checkpoint_told: tuple[str, float] = ("", -CHECKPOINT_SECONDS)
    _waited: float = 0.0

    def follow(self) -> tuple[Run, list[Attempt]]:
        """Return the run when it has ended.

        Raises RequestError when the request was refused before the run began.
        """
        tail = LogTail(self.cloud.logs, self.run_id)
        failures = 0
        while True:
            try:
                run, attempts = self._look()
                ours = [one for one in attempts if one.number > self.after_attempt]
                self._tell_changes(run, [one for one in ours if one.ended is None])
                self._pass_on(tail, ours)
                has_ended = run is not None and run.ended is not None
                if has_ended:
                    self._wait_for_last_lines(tail, ours)
                # An end is told after what the trainer said before it.
                self._tell_changes(run, ours)
                if run is not None and has_ended:
                    return run, attempts
                failures = 0
            except TransientError as exc:
                # The run does not depend on us: a network that is away comes back.
                failures += 1
                if failures == 1:
                    self.display.tell(f"{exc}; trying again", style="yellow")
            self._waited += self.cloud.pause
            self.sleep(min(self.cloud.pause * 2**failures, 30))

    def _look(self) -> tuple[Run | None, list[Attempt]]:
        run = self.cloud.ledger.find_run(self.run_id)
        if run is not None and run.execution_arn == self.execution_arn:
            self._has_begun = True
        if not self._has_begun:
            # What the ledger holds, if anything, is how an earlier execution left the run.
            run = None
        attempts = [] if run is None else self.cloud.ledger.attempts(self.run_id)
        if run is None or (run.ended is None and self._is_due()):
            self._check_execution(run)
        self.display.show(self.run_id, run, attempts)
        return run, attempts

    def _is_due(self) -> bool:
        """Whether to ask Step Functions too, which takes few questions a second."""
        return self._waited % 20 < self.cloud.pause

    def _check_execution(self, run: Run | None) -> None:
        execution = self.cloud.workflow.find_execution(self.execution_arn)
        if execution is None:
            # StartExecution has answered, but not everybody knows yet.
            if self._waited > PATIENCE.total_seconds():
                raise NotFoundError(f"there is no execution {self.execution_arn}")
            return
        if execution.is_running:
            return
        now = self.cloud.ledger.find_run(self.run_id)
        if run is None and (now is None or now.execution_arn != self.execution_arn):
            raise refusal(execution)
        ended_at = execution.ended_at or execution.started_at
        if datetime.now(timezone.utc) - ended_at > PATIENCE and (now is None or now.ended is None):
            raise RunctlError(
                f"the execution {execution.name} has ended ({execution.status}), but the ledger "
                f"still has no end of the run: {execution.cause or 'clean-up did not run'}; "
                "see the log of the function clean_up"
            )

    def _tell_changes(self, run: Run | None, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            state = describe_attempt(attempt)
            if self._told.get(attempt.number) != state:
                self._told[attempt.number] = state
                is_bad = attempt.noticed_at is not None or attempt.ended is not None
                is_done = attempt.ended is not None and attempt.ended.kind is OutcomeKind.COMPLETED
                style = "green" if is_done else "yellow" if is_bad else "cyan"
                self.display.tell(f"attempt {attempt.number} {state}", style=style)
        name, told_at = self._checkpoint_told
        if run is None or run.newest is None or name_of(run.step, run.save) == name:
            return
        if self._waited - told_at >= CHECKPOINT_SECONDS:
            self._checkpoint_told = (name_of(run.step, run.save), self._waited)
            self.display.tell(f"checkpoint of {name_of(run.step, run.save)}")

    def _pass_on(self, tail: LogTail, attempts: Sequence[Attempt]) -> bool:
        """Pass on what the latest attempts said; say whether there was anything."""
        found = [*tail.read(attempts[-3:]), *tail.unfinished(after=LINE_PATIENCE)]
        lines = [plain(line.text) for _, line in found]
        for line in lines:
            self.display.say(line)
        return bool(lines)

    def _wait_for_last_lines(self, tail: LogTail, attempts: Sequence[Attempt]) -> None:
        for _ in range(round(LAST_LINES.total_seconds() / self.cloud.pause)):
            self.sleep(self.cloud.pause)
            if not self._pass_on(tail, attempts) and self.cloud.is_near:
                break
        for _, line in tail.unfinished():
            self.display.say(plain(line.text))


def describe_attempt(attempt: Attempt) -> str:
    """Say how far an attempt has come; the same words as long as nothing has changed."""
    where = f" on {attempt.pool}" if attempt.pool else ""
    if attempt.ended is not None:
        told = attempt.ended.kind.value.replace("_", " ")
        return f"{told}: {brief(attempt.ended.reason)}" if attempt.ended.reason else told
    if attempt.noticed_at is not None:
        return f"has an interruption notice{where}; it drains"
    if attempt.stage is AttemptStage.TRAINING and "started" in attempt.timeline:
        return f"trains{where} from {_start_of(attempt)}"
    if attempt.stage is AttemptStage.LAUNCHING:
        return "asks for an instance"
    return f"prepares{where}"


def _start_of(attempt: Attempt) -> str:
    if attempt.resume_step is None and not attempt.resume_save:
        return "the beginning"
    return name_of(attempt.resume_step, attempt.resume_save)


def refusal(execution: Execution) -> RunctlError:
    """Return the error of an execution that ended before the run began."""
    if execution.status == "FAILED":
        return RequestError(execution.cause or f"the request was refused ({execution.error})")
    return RunctlError(
        f"the execution {execution.name} ended as {execution.status} before the run began"
    )


def follow_run(
    cloud: Cloud,
    run_id: str,
    execution_arn: str,
    *,
    console: Console,
    come_back: str,
    after_attempt: int = 0,
) -> tuple[Run, list[Attempt]]:
    """Follow a run on stderr; on Ctrl-C say how to come back and pass the interrupt on."""
    began = time.monotonic()
    try:
        with open_display(console) as display:
            return Follower(cloud, run_id, execution_arn, display, after_attempt).follow()
    except KeyboardInterrupt:
        lasting = say_duration(timedelta(seconds=time.monotonic() - began))
        console.print(
            f"\nleft {run_id} going after {lasting}; come back with `{come_back}`", soft_wrap=True
        )
        raise
    except RefusedError:
        # Credentials that expire while following end nothing but the following.
        console.print(f"{run_id} goes on; come back with `{come_back}`", soft_wrap=True)
        raise
