"""Results of the control functions: the documents that the state machine, logs and people read.

The state machine reads these keys, and so does one that was deployed with an earlier version: an
execution keeps its definition for weeks. `tests/workflow/test_results.py` verifies both.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Any

from runctl.model.decision import DecisionKind
from runctl.model.outcome import Outcome, RunStatus
from runctl.model.trial import TrialState


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a function; a field with the default None is left out while it is None."""

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if value is not None or name in self.required_keys()
        }

    @classmethod
    def required_keys(cls) -> frozenset[str]:
        """Return the keys that every document of this type has."""
        return frozenset(
            field.name
            for field in fields(cls)
            if field.default is MISSING or field.default is not None
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Outcome):
        return value.as_document()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Result):
        return value.as_document()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class ImageBuild(Result):
    """The build of a run's image, in the words of CodeBuild's StartBuild."""

    tag: str
    project: str
    variables: tuple[dict[str, str], ...]
    log_group: str
    log_stream: str


@dataclass(frozen=True, kw_only=True)
class PreparedRun(Result):
    """PrepareRun: the run, the number of its next attempt, and the build of its image, if any."""

    run_id: str
    attempt: int
    build: ImageBuild | None = None


@dataclass(frozen=True, kw_only=True)
class RecordedImage(Result):
    """RecordImage: the run has its image."""

    run_id: str
    recorded: bool = True


@dataclass(frozen=True, kw_only=True)
class UnbuiltImage(Result):
    """RecordImage: there is no image, and how the run ends."""

    run_id: str
    status: RunStatus
    reason: str
    recorded: bool = False


@dataclass(frozen=True, kw_only=True)
class LaunchedAttempt(Result):
    """LaunchInstances: the attempt has an instance; how long its agent may be silent."""

    run_id: str
    attempt: int
    heartbeat_seconds: int
    launched: bool = True


@dataclass(frozen=True, kw_only=True)
class UnlaunchedAttempt(Result):
    """LaunchInstances: the attempt has no instance, or has already ended."""

    run_id: str
    attempt: int
    outcome: Outcome
    launched: bool = False


class TrainStatus(str, Enum):
    """The result of storing the task token."""

    STARTED = "started"
    ALREADY_ENDED = "already_ended"


@dataclass(frozen=True, kw_only=True)
class TrainStart(Result):
    """Train: the token was stored; the task continues until its outcome is reported."""

    run_id: str
    attempt: int
    status: TrainStatus


@dataclass(frozen=True, kw_only=True)
class TrainReport(Result):
    """The report that completes a Train task, as the agent writes it, too."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class EndedAttempt(Result):
    """ConfirmCheckpoint: the stored outcome, and the newest checkpoint."""

    run_id: str
    attempt: int
    outcome: Outcome
    step: int | None
    save: int | None
    checkpoint: str | None


@dataclass(frozen=True, kw_only=True)
class NextStep(Result):
    """DecideNext: the decision, the next attempt and the wait before it.

    `status` is how the run ends. `continue_as` is the name of the execution in which it continues.
    """

    run_id: str
    decision: DecisionKind
    attempt: int
    wait_seconds: int
    reason: str
    status: RunStatus | None = None
    continue_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult(Result):
    """FinishRun: how the run ended, and what it left. The output of the execution."""

    run_id: str
    status: RunStatus
    reason: str
    step: int | None
    save: int | None
    attempts: int
    checkpoint: str | None
    outputs: str
    metrics: Mapping[str, Any] | None = None


class CleanUpStatus(str, Enum):
    """The result of a clean-up."""

    NOT_OURS = "not_ours"
    SUPERSEDED = "superseded"
    CLEANED = "cleaned"


@dataclass(frozen=True, kw_only=True)
class CleanUpResult(Result):
    """CleanUp: what was ended; the lists are set if the run or the group was cleaned up."""

    status: CleanUpStatus
    run_id: str | None = None
    group_id: str | None = None
    run_status: RunStatus | None = None
    attempts_ended: tuple[int, ...] | None = None
    asked_to_stop: tuple[str, ...] | None = None
    terminated: tuple[str, ...] | None = None


class ReportStatus(str, Enum):
    """The result of a report for an attempt whose agents cannot report."""

    REPORTED = "reported"
    ALREADY_REPORTED = "already_reported"
    ENDED = "ended"


class InterruptionStatus(str, Enum):
    """What HandleInterruption did about an event."""

    NOT_OURS = "not_ours"
    ALREADY_ENDED = "already_ended"
    RELAUNCHED = "relaunched"
    NO_CAPACITY = "no_capacity"
    NOT_RELAUNCHED = "not_relaunched"
    ASKED = "asked"
    AGENT_NOT_THERE = "agent_not_there"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class InterruptionResult(Result):
    """HandleInterruption: what was done about an event, and for which attempt if it is ours."""

    status: InterruptionStatus
    event: str | None = None
    instance_id: str | None = None
    run_id: str | None = None
    attempt: int | None = None
    agent_reached: bool | None = None


class InstanceChangeStatus(str, Enum):
    """What HandleInstanceChange did about an event; the first three are those of a report."""

    REPORTED = ReportStatus.REPORTED.value
    ALREADY_REPORTED = ReportStatus.ALREADY_REPORTED.value
    ENDED = ReportStatus.ENDED.value
    NOT_OURS = "not_ours"
    STILL_RUNNING = "still_running"
    ALREADY_ENDED = "already_ended"
    OTHERS_REPORT = "others_report"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class InstanceChangeResult(Result):
    """HandleInstanceChange: what was done about an event, and for which attempt if it is ours."""

    status: InstanceChangeStatus
    instance_id: str | None = None
    state: str | None = None
    run_id: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, kw_only=True)
class MachineChecks(Result):
    """The instances whose attempts were replaced or asked to save after failed status checks."""

    replaced: tuple[str, ...] = ()
    asked_to_save: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReconcileResult(Result):
    """Reconcile: how many unsettled runs and machines there are, what was done, and what failed.

    Without the results of status checks if they could not be examined, and without images and
    machines that are no longer lent if there were none.
    """

    runs: int
    machines: int
    cleaned: tuple[str, ...]
    replaced: tuple[str, ...] | None = None
    asked_to_save: tuple[str, ...] | None = None
    terminated: tuple[str, ...]
    fleets_deleted: tuple[str, ...]
    images_deleted: tuple[str, ...] | None = None
    no_longer_lent: tuple[str, ...] | None = None
    failed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PreparedSweep(Result):
    """PrepareSweep: the sweep, the trials to run, and how many of them at once."""

    group_id: str
    sampler: str
    instances: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedShards(Result):
    """PlanShards: the job, the runs that process its batches, and how many of them at once.

    Each of `batches` has the run, its first shard and their count, the name of its execution, and
    whether that `continues` a run that has ended. `request` is what all runs have in common.
    """

    group_id: str
    instances: int
    batches: tuple[dict[str, Any], ...]
    request: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProcessingResult(Result):
    """FinishProcessing: how a job on several instances ended. The output of its execution."""

    group_id: str
    status: RunStatus
    reason: str
    outputs: str
    shards: int
    done: int | None = None
    failed: int | None = None


@dataclass(frozen=True, kw_only=True)
class SuggestedTrial(Result):
    """SuggestTrial: a trial has hyperparameters, unless it is not to be started any more."""

    group_id: str
    number: int


@dataclass(frozen=True, kw_only=True)
class TrialToRun(Result):
    """AskTrial: the name and the input of the execution that runs a trial."""

    group_id: str
    number: int
    execution: str
    request: Mapping[str, Any]
    start: bool = True


@dataclass(frozen=True, kw_only=True)
class SkippedTrial(Result):
    """AskTrial: the trial has ended, or is not to be started any more."""

    group_id: str
    number: int
    start: bool = False


@dataclass(frozen=True, kw_only=True)
class RecordedTrial(Result):
    """RecordTrial: the state of a trial, and whether its run goes on elsewhere."""

    group_id: str
    number: int
    state: TrialState
    is_running: bool


@dataclass(frozen=True, kw_only=True)
class Judgement(Result):
    """JudgeTrial: whether a trial goes on after a rung."""

    run_id: str
    rung: int
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class RefusedQuestion(Result):
    """JudgeTrial: why a question is not answered. Answers have another `status`."""

    reason: str
    status: str = "refused"


@dataclass(frozen=True, kw_only=True)
class SweepResult(Result):
    """FinishSweep: how the sweep ended. The output of its execution.

    `trials` is how many it was to try, `ended` how many have ended, and `best` the number of the
    best one with its value.
    """

    group_id: str
    status: RunStatus
    reason: str
    trials: int
    ended: int
    best: int | None = None
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class PlottedSweep(Result):
    """PlotSweep: the keys of the pictures, or why there are none."""

    group_id: str
    plots: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class PrunedEnvironments(Result):
    """PruneEnvironments: how many environments there were, and what was removed.

    `removed` are fingerprints. `damaged` are the keys of manifests that name missing parts, and of
    what made runs use them. The objects that were removed include shared parts, old archives, and
    the environments of runs that share none; `bytes_removed` adds up the sizes of these.
    `bytes_removed_later` are those of parts that nothing names and that are too recent to remove.
    """

    environments: int
    removed: tuple[str, ...]
    damaged: tuple[str, ...]
    objects_removed: int
    bytes_removed: int
    bytes_removed_later: int
    is_dry_run: bool
