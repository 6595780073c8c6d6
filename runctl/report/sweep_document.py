"""What people want to know about a sweep: its progress, its trials, and the best of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from runctl.model.run import Run
from runctl.model.sweep_options import SweepOptions
from runctl.model.sweep_request import SweepRequest
from runctl.model.sweep_results import trial_entry
from runctl.model.trial import Trial, TrialState, best_trial
from runctl.report.group_time import GroupTime, group_time
from runctl.report.machine_time import MachineTime, machine_times
from runctl.report.wording import instant_text

if TYPE_CHECKING:
    from runctl.aws.group_ledger import DynamoGroupLedger
    from runctl.aws.ledger import DynamoLedger
    from runctl.aws.trial_ledger import DynamoTrialLedger

KIND = "sweep"
_READS = 8


class Source(Protocol):
    """The ledger of one deployment."""

    @property
    def ledger(self) -> DynamoLedger:
        """The runs."""
        ...

    @property
    def groups(self) -> DynamoGroupLedger:
        """The groups of runs."""
        ...

    @property
    def trials(self) -> DynamoTrialLedger:
        """The trials."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrialEntry:
    """A trial with what its run adds: its attempts so far, None if they were not read."""

    trial: Trial
    attempts: int | None = None
    interruptions: int = 0

    def as_document(self) -> dict[str, Any]:
        """Return the entry as JSON."""
        return {
            **trial_entry(self.trial),
            "attempts": self.attempts,
            "interruptions": self.interruptions,
        }


@dataclass(frozen=True, kw_only=True)
class SweepDocument:
    """A sweep and the trials that have begun; `time` is None if the runs were not read."""

    group: Group
    request: SweepRequest
    trials: tuple[TrialEntry, ...]
    time: GroupTime | None = None

    @property
    def options(self) -> SweepOptions:
        """What the sweep tries."""
        return self.request.sweep

    @property
    def status(self) -> RunStatus:
        """The status of the sweep."""
        return self.group.ended or RunStatus.RUNNING

    @property
    def best(self) -> Trial | None:
        """The best trial so far."""
        return best_trial([entry.trial for entry in self.trials], direction=self.options.direction)

    @property
    def counts(self) -> dict[TrialState, int]:
        """The number of trials in each state that some are in."""
        counted = Counter(entry.trial.state for entry in self.trials)
        return {state: counted[state] for state in TrialState if counted[state]}

    @property
    def ended(self) -> int:
        """The number of trials that have ended."""
        return sum(entry.trial.has_ended for entry in self.trials)

    def as_document(self) -> dict[str, Any]:
        """Return the document as `runctl sweep status --json` prints it."""
        options, best = self.options, self.best
        return {
            "sweep": self.group.group_id,
            "status": self.status.value,
            "reason": self.group.reason,
            "stop_requested": self.group.stop_requested,
            "execution_arn": self.group.execution_arn,
            "started_at": instant_text(self.group.started_at),
            "ended_at": instant_text(self.group.ended_at),
            "sampler": options.sampler,
            "pruner": options.pruner,
            "metric": options.metric or None,
            "direction": options.direction,
            "instances": options.instances,
            "trial_count": options.trials,
            "counts": {state.value: count for state, count in self.counts.items()},
            **({} if self.time is None else self.time.as_document()),
            "best": None if best is None else trial_entry(best),
            "trials": [entry.as_document() for entry in self.trials],
        }


def read_sweep(source: Source, group: Group, *, reads_runs: bool = True) -> SweepDocument:
    """Return a sweep with its trials.

    With `reads_runs`, each trial has its attempts and the sweep its machine time, which costs two
    reads for each of them.
    """
    trials = source.trials.list_trials(group.group_id)
    runs: Sequence[Run | None] = [None] * len(trials)
    time = None
    if reads_runs:
        now = datetime.now(timezone.utc)

        def time_of(trial: Trial) -> list[MachineTime]:
            return machine_times(source.ledger.attempts(trial.run_id), now=now)

        with ThreadPoolExecutor(max_workers=_READS) as pool:
            runs = list(pool.map(lambda trial: source.ledger.find_run(trial.run_id), trials))
            times = [each for found in pool.map(time_of, trials) for each in found]
        time = group_time(times, source.groups.list_all_warm(group.group_id), now=now)
    request = SweepRequest.from_stored(group.request)
    if not isinstance(request, SweepRequest):
        raise TypeError(type(request).__name__)
    return SweepDocument(
        group=group,
        request=request,
        time=time,
        trials=tuple(
            _entry(trial, run, is_over=group.ended is not None)
            for trial, run in zip(trials, runs, strict=True)
        ),
    )


def _entry(trial: Trial, run: Run | None, *, is_over: bool) -> TrialEntry:
    if trial.state is TrialState.RUNNING and is_over and (run is None or run.ended is not None):
        # Nothing is left that would record its end, until the sweep is resumed.
        reason = "the sweep ended before the end of the trial was recorded"
        trial = replace(trial, state=TrialState.STALE, reason=reason)
    if run is None or run.summary is None:
        return TrialEntry(trial=trial)
    return TrialEntry(
        trial=trial, attempts=run.summary.last, interruptions=run.summary.interruptions
    )


def took(group: Group, *, now: datetime) -> float:
    """Return how long a sweep has taken so far, in seconds."""
    return ((group.ended_at or now) - group.started_at).total_seconds()
