"""A run and its attempts, as the ledger remembers them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from runctl.model.errors import RunEndedError
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.request import RunRequest
from runctl.model.saving import Saving

# An attempt that ended like this lost its instance.
INTERRUPTIONS = frozenset({OutcomeKind.INTERRUPTED, OutcomeKind.LOST})


@dataclass(frozen=True, kw_only=True)
class AttemptsSummary:
    """A summary of a run's attempts, stored on the run's item so that a list needs no query a run.

    `last` is the number of the last attempt, 0 before the first, and `pool` the pool of the last
    that was launched. `running` are the numbers of those that have the task token and have not
    ended; `is_recovering` says that an attempt ended for another reason than missing capacity.
    """

    last: int = 0
    pool: str = ""
    running: frozenset[int] = frozenset()
    is_recovering: bool = False
    interruptions: int = 0
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job from request to result.

    `fence` is the highest attempt that was given a task token: a commit, heartbeat or report of a
    lower one is refused. `newest` is the manifest key of the newest whole checkpoint, `step` its
    step (None when its files do not say), `save` its number and `committed_at` when it became the
    newest. `save` counts the commits of the whole run and never goes back; 0 stands for a run that
    only an older version has saved. `best_step` is the highest step ever committed,
    `progressed_attempt` the last attempt that made progress, `proven` the key of the newest
    manifest that a trainer continued from, and `suspects` are the keys of manifests from which a
    trainer died. `execution` is the name of the run's current
    execution, the `executions`-th of the run, whose attempts begin with `first_attempt`;
    `ancestors` are the ARNs of executions that handed the run on to it and wait for its end.
    `ended` holds the final status; None while the run may still move. `notified_end` is the
    `ended_at` that people were notified of. `summary` is None for a run that an earlier version
    stored.
    """

    run_id: str
    request: RunRequest
    started_at: datetime
    execution: str
    execution_arn: str
    executions: int = 1
    first_attempt: int = 1
    ancestors: tuple[str, ...] = ()
    fence: int = 0
    step: int | None = None
    save: int = 0
    best_step: int | None = None
    progressed_attempt: int | None = None
    newest: str | None = None
    proven: str | None = None
    suspects: frozenset[str] = frozenset()
    committed_at: datetime | None = None
    ended: RunStatus | None = None
    ended_at: datetime | None = None
    reason: str = ""
    notified_end: datetime | None = None
    summary: AttemptsSummary | None = AttemptsSummary()

    @property
    def is_settled(self) -> bool:
        """Whether it ended and the end was announced, which is the last step of a run."""
        return self.ended_at is not None and self.notified_end == self.ended_at


class AttemptStage(str, Enum):
    """How far an attempt has come; it only moves forward."""

    LAUNCHING = "launching"  # the exact request is on record, EC2 may or may not have it
    LAUNCHED = "launched"  # its instances are known
    RUNNING = "running"  # it has the task token
    ENDED = "ended"


@dataclass(frozen=True)
class Launched:
    """An attempt whose machine is launched with a CreateFleet request, kept for verbatim replay.

    `plan` is the reason of the launch plan: why it requests these pools, or nothing yet.
    """

    fleet_request: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Existing:
    """An attempt on a machine that was there before the run and is not ours to terminate."""

    instance_id: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a run, on one instance.

    `token` is the Step Functions task token, whose only home is the ledger. `source` says where its
    machine comes from. `ended` is set once and never changed.
    `resume_save` is the number of the save it started from, None for the very beginning, and
    `resume_step` its step, None when that is not known either; `progress_step` is the last step
    that the trainer reported, committed or not.
    `timeline` has the instants that the agent saw: detected, sigterm, exited, committed, booted,
    restored, started, first_step. `noticed_at` is when the interruption notice became known, by
    whichever detector.
    """

    run_id: str
    number: int
    stage: AttemptStage
    launch_try: int = 1
    source: Launched | Existing = Launched()
    instance_ids: tuple[str, ...] = ()
    pool: str = ""
    token: str = ""
    launched_at: datetime | None = None
    running_at: datetime | None = None
    heartbeat_at: datetime | None = None
    noticed_at: datetime | None = None
    ended_at: datetime | None = None
    phase: str = ""
    resume_step: int | None = None
    resume_save: int | None = None
    progress_step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    timeline: dict[str, datetime] = field(default_factory=dict)
    saving: Saving | None = None
    warning: str = ""
    ended: Outcome | None = None

    @property
    def was_launched(self) -> bool:
        """Whether machines were ever running for it."""
        return bool(self.instance_ids)

    @property
    def fleet_request(self) -> str:
        """The CreateFleet request as sent; empty on an existing instance."""
        return self.source.fleet_request if isinstance(self.source, Launched) else ""

    @property
    def plan(self) -> str:
        """Why its launch requests the pools that it does; empty on an existing instance."""
        return self.source.plan if isinstance(self.source, Launched) else ""

    @property
    def is_on_existing_instance(self) -> bool:
        """Whether its machine was there before the run, and is not ours to terminate."""
        return isinstance(self.source, Existing)


def best_of(best: int | None, step: int) -> int:
    """Return the highest step committed so far, with one more."""
    return step if best is None else max(best, step)


def already_ended(run: Run) -> RunEndedError:
    """Return the error of starting something for an ended run, as a redriven execution does."""
    status = "" if run.ended is None else run.ended.value
    return RunEndedError(
        f"the run {run.run_id} has ended: {status}; to go on with it, use "
        f"`runctl resume {run.run_id}`, not a redrive"
    )


def was_refused(run: Run, attempts: Sequence[Attempt]) -> bool:
    """Whether a run failed because AWS refused to launch a machine for it."""
    last = attempts[-1] if attempts else None
    return (
        run.ended is RunStatus.FAILED
        and last is not None
        and last.ended is not None
        and last.ended.kind is OutcomeKind.FAILED
        and not last.was_launched
        and not last.is_on_existing_instance
    )


def summarize(attempts: Sequence[Attempt]) -> AttemptsSummary:
    """Summarize a run's attempts, given in the order of their numbers."""
    ends = [attempt.ended for attempt in attempts if attempt.ended is not None]
    return AttemptsSummary(
        last=attempts[-1].number if attempts else 0,
        pool=next((attempt.pool for attempt in reversed(attempts) if attempt.pool), ""),
        running=frozenset(
            attempt.number for attempt in attempts if attempt.stage is AttemptStage.RUNNING
        ),
        is_recovering=any(end.kind is not OutcomeKind.NO_CAPACITY for end in ends),
        interruptions=sum(end.kind in INTERRUPTIONS for end in ends),
        failures=sum(is_own_failure(end) for end in ends),
    )


def status_of(run: Run, summary: AttemptsSummary) -> RunStatus:
    """Return the status of a run from a summary of its attempts."""
    if run.ended is not None:
        return run.ended
    if not summary.last:
        return RunStatus.PENDING
    if summary.running:
        return RunStatus.RUNNING
    return RunStatus.RECOVERING if summary.is_recovering else RunStatus.LAUNCHING


def derive_status(run: Run, attempts: Sequence[Attempt]) -> RunStatus:
    """Return the status of a run from its attempts, given in the order of their numbers."""
    return status_of(run, summarize(attempts))
