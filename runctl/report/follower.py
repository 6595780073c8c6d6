"""The follower of a run, which announces changes until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from runctl.model.errors import TransientError
from runctl.model.kinds import TRAIN
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Run
from runctl.report.descriptions import attempt_text, checkpoint_name, shards_text
from runctl.report.ended_execution import find_ended, refusal, require_recorded
from runctl.report.log_tail import UNFINISHED_LINE_TIME, LogTail
from runctl.report.run_document import RunDocument, document_of
from runctl.report.timeline import AttemptEntry

if TYPE_CHECKING:
    from runctl.aws.ledger import DynamoLedger
    from runctl.aws.logs import LogReader
    from runctl.aws.workflow import StepFunctions

# Of a larger gang, only the lines of its first nodes are shown.
MAX_FOLLOWED_NODES = 8
CHECKPOINT_SECONDS = 10.0  # between two announcements of checkpoints
# The last lines of a trainer reach the log shortly after its end is known.
LAST_LINES = timedelta(seconds=3)


class Tone(Enum):
    """The kind of an announcement, by which a display may choose a colour."""

    NEUTRAL = "neutral"
    PROGRESS = "progress"
    SUCCESS = "success"
    WARNING = "warning"


class Display(Protocol):
    """The receiver of a follower's observations: a live view, plain lines, or a web page."""

    def show(self, run_id: str, run: RunDocument | None) -> None:
        """Show the state of the run, None before it began."""
        ...

    def announce(self, text: str, tone: Tone = Tone.NEUTRAL) -> None:
        """Announce a change."""
        ...

    def log(self, text: str) -> None:
        """Show a line of the trainer's output."""
        ...


class Source(Protocol):
    """The source of a follower: the ledger, the executions and the logs of one deployment."""

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
    _last_shards: tuple[str, float] = ("", 0.0)
    _last_checkpoint: tuple[str, float] = ("", -CHECKPOINT_SECONDS)
    _waited: float = 0.0

    def follow(self) -> RunDocument:
        """Return the run when it has ended.

        Raises RequestError if the request was refused before the run began.
        """
        tail = LogTail(self.source.logs, self.run_id)
        failures = 0
        while True:
            try:
                run = self._read()
                ours = [] if run is None else self._ours(run)
                tail.has_build = bool(run and run.request.get("docker", {}).get("dockerfile"))
                self._announce_changes(run, [attempt for attempt in ours if attempt.is_live])
                self._pass_on(tail, ours)
                has_ended = run is not None and run.entry.has_ended
                if has_ended:
                    self._wait_for_last_lines(tail, ours)
                # The end of an attempt follows the trainer's last lines.
                self._announce_changes(run, ours)
                if run is not None and has_ended:
                    return run
                failures = 0
            except TransientError as exc:
                # The run does not depend on this process, so a lost network ends nothing.
                failures += 1
                if failures == 1:
                    self.display.announce(f"{exc}; trying again", Tone.WARNING)
            self._waited += self.source.pause
            self.sleep(min(self.source.pause * 2**failures, 30))

    def _ours(self, run: RunDocument) -> list[AttemptEntry]:
        return [attempt for attempt in run.timeline if attempt.number > self.after_attempt]

    def _read(self) -> RunDocument | None:
        run = self.source.ledger.find_run(self.run_id)
        if run is not None and run.execution_arn == self.execution_arn:
            self._has_begun = True
        if not self._has_begun:
            # The ledger holds, if anything, the state in which an earlier execution left the run.
            run = None
        attempts = [] if run is None else self.source.ledger.attempts(self.run_id)
        if run is None or (run.ended is None and self._is_due()):
            self._check_execution(run)
        now = datetime.now(timezone.utc)
        document = None if run is None else document_of(run, attempts, now=now)
        self.display.show(self.run_id, document)
        return document

    def _is_due(self) -> bool:
        """Whether to ask Step Functions as well, which throttles frequent calls."""
        return self._waited % 20 < self.source.pause

    def _check_execution(self, run: Run | None) -> None:
        execution = find_ended(self.source.workflow, self.execution_arn, waited=self._waited)
        if execution is None:
            return
        now = self.source.ledger.find_run(self.run_id)
        if run is None and (now is None or now.execution_arn != self.execution_arn):
            raise refusal(execution, "run")
        if now is None or now.ended is None:
            require_recorded(execution, "run")

    def _announce_changes(self, run: RunDocument | None, attempts: Sequence[AttemptEntry]) -> None:
        kind = TRAIN if run is None else run.entry.kind
        for attempt in attempts:
            state = attempt_text(attempt, kind=kind)
            if self._announced.get(attempt.number) != state:
                self._announced[attempt.number] = state
                self.display.announce(f"attempt {attempt.number} {state}", _tone(attempt))
        self._announce_shards(run, attempts)
        name, announced_at = self._last_checkpoint
        newest = "" if run is None else checkpoint_name(run.entry)
        if newest in {"", name}:
            return
        if self._waited - announced_at >= CHECKPOINT_SECONDS:
            self._last_checkpoint = (newest, self._waited)
            self.display.announce(f"checkpoint of {newest}")

    def _announce_shards(self, run: RunDocument | None, attempts: Sequence[AttemptEntry]) -> None:
        """Announce from time to time how many shards are done, for a display without a bar.

        Once an attempt has ended, they were told with its end.
        """
        is_live = any(attempt.is_live and attempt.shards is not None for attempt in attempts)
        text = "" if run is None or not is_live else shards_text(run)
        shown, announced_at = self._last_shards
        if text in {"", shown} or self._waited - announced_at < CHECKPOINT_SECONDS:
            return
        self._last_shards = (text, self._waited)
        self.display.announce(f"shards {text}")

    def _pass_on(self, tail: LogTail, attempts: Sequence[AttemptEntry]) -> bool:
        """Pass on new lines of the latest attempts; return whether there were any."""
        latest = {attempt.number: _followed(attempt) for attempt in attempts[-3:]}
        lines = [*tail.read(latest), *tail.unfinished(after=UNFINISHED_LINE_TIME)]
        for line in lines:
            self.display.log(line.plain)
        return bool(lines)

    def _wait_for_last_lines(self, tail: LogTail, attempts: Sequence[AttemptEntry]) -> None:
        for _ in range(round(LAST_LINES.total_seconds() / self.source.pause)):
            self.sleep(self.source.pause)
            if not self._pass_on(tail, attempts) and self.source.is_near:
                break
        for line in tail.unfinished():
            self.display.log(line.plain)


def _followed(attempt: AttemptEntry) -> list[int]:
    """Return the ranks whose lines are passed on: CloudWatch Logs throttles many readers."""
    return [node.rank for node in attempt.nodes[:MAX_FOLLOWED_NODES]] or [0]


def _tone(attempt: AttemptEntry) -> Tone:
    if attempt.kind is OutcomeKind.COMPLETED:
        return Tone.SUCCESS
    is_bad = attempt.noticed_at is not None or not attempt.is_live
    return Tone.WARNING if is_bad else Tone.PROGRESS
