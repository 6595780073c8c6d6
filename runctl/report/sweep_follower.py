"""The follower of a sweep, which announces each trial that ends until the sweep ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol

from runctl.model.errors import NotFoundError, RunctlError, TransientError
from runctl.report.follower import CLEAN_UP_TIMEOUT, refusal
from runctl.report.sweep_document import Source as Ledgers
from runctl.report.sweep_document import SweepDocument, TrialEntry, read_sweep

if TYPE_CHECKING:
    from runctl.aws.workflow import StepFunctions

# Reading this many trials costs as much as the pause between two reads of a run.
TRIALS_PER_PAUSE = 500
MAX_PAUSE = 60.0
CHECK_EVERY = 20.0


class Source(Ledgers, Protocol):
    """The ledger and the executions of one deployment."""

    @property
    def workflow(self) -> StepFunctions:
        """The executions."""
        ...

    @property
    def pause(self) -> float:
        """The seconds between two reads."""
        ...


class Display(Protocol):
    """The receiver of a follower's observations."""

    def show(self, sweep: SweepDocument | None) -> None:
        """Show the state of the sweep, None before it began."""
        ...

    def announce(self, entry: TrialEntry, sweep: SweepDocument) -> None:
        """Announce the end of a trial."""
        ...

    def warn(self, text: str) -> None:
        """Announce a problem."""
        ...


@dataclass
class SweepFollower:
    """Follows one execution of a sweep."""

    source: Source
    group_id: str
    execution_arn: str
    display: Display
    sleep: Callable[[float], None] = time.sleep
    _announced: set[int] = field(default_factory=set)
    _has_begun: bool = False
    _waited: float = 0.0

    def follow(self) -> SweepDocument:
        """Return the sweep when it has ended.

        Raises RequestError if the request was refused before the sweep began.
        """
        failures = 0
        while True:
            sweep = None
            try:
                sweep = self._read()
                if sweep is not None and sweep.group.ended is not None:
                    return sweep
                failures = 0
            except TransientError as exc:
                # The sweep does not depend on this process, so a lost network ends nothing.
                failures += 1
                if failures == 1:
                    self.display.warn(f"{exc}; trying again")
            trials = 0 if sweep is None else len(sweep.trials)
            pause = self.source.pause * (1 + trials / TRIALS_PER_PAUSE)
            self._waited += pause
            self.sleep(min(pause * 2**failures, MAX_PAUSE))

    def _read(self) -> SweepDocument | None:
        group = self.source.groups.find_group(self.group_id)
        is_ours = group is not None and group.execution_arn == self.execution_arn
        if group is None or not (is_ours or self._has_begun):
            # The ledger holds, if anything, the state in which an earlier execution left the sweep.
            self._check_execution()
            self.display.show(None)
            return None
        if group.ended is None and self._waited % CHECK_EVERY < self.source.pause:
            self._check_execution()
        sweep = read_sweep(self.source, group, reads_runs=False)
        ended = {entry.trial.number: entry for entry in sweep.trials if entry.trial.has_ended}
        if not self._has_begun and group.execution != group.group_id:
            # What an earlier execution of the sweep did is not announced again.
            self._announced |= ended.keys()
        self._has_begun = True
        for number in sorted(ended.keys() - self._announced):
            self._announced.add(number)
            self.display.announce(ended[number], sweep)
        self.display.show(sweep)
        return sweep

    def _check_execution(self) -> None:
        execution = self.source.workflow.find_execution(self.execution_arn)
        if execution is None:
            # StartExecution is eventually consistent.
            if self._waited > CLEAN_UP_TIMEOUT.total_seconds():
                raise NotFoundError(f"the execution {self.execution_arn} does not exist")
            return
        if execution.is_running:
            return
        group = self.source.groups.find_group(self.group_id)
        if group is None or group.execution_arn != self.execution_arn:
            raise refusal(execution)
        ended_at = execution.ended_at or execution.started_at
        if group.ended is None and datetime.now(timezone.utc) - ended_at > CLEAN_UP_TIMEOUT:
            raise RunctlError(
                f"the execution {execution.name} has ended ({execution.status}), but the ledger "
                f"does not record the end of the sweep: {execution.cause or 'no clean-up'}; see "
                "the log of the function clean_up"
            )
