"""The follower of a sweep, which announces each trial that ends until the sweep ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from runctl.model.errors import TransientError
from runctl.report.ended_execution import find_ended, refusal, require_recorded
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
        execution = find_ended(self.source.workflow, self.execution_arn, waited=self._waited)
        if execution is None:
            return
        group = self.source.groups.find_group(self.group_id)
        if group is None or group.execution_arn != self.execution_arn:
            raise refusal(execution, "sweep")
        if group.ended is None:
            require_recorded(execution, "sweep")
