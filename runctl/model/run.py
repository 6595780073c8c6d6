"""Runs and attempts, as the ledger stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from runctl.model.errors import RunEndedError
from runctl.model.image import Image
from runctl.model.node import Node, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.request import RunRequest
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging
from runctl.model.subject import Subject

# An attempt that ended like this lost its instance.
INTERRUPTIONS = frozenset({OutcomeKind.INTERRUPTED, OutcomeKind.LOST})


@dataclass(frozen=True, kw_only=True)
class AttemptsSummary:
    """A summary of a run's attempts, stored on the run's item so that a list needs no query a run.

    `last` is the number of the last attempt, 0 before the first, and `pool` the pool of the last
    that was launched, that of its first node; `pool_attempt` is the number of that one. `running`
    are the numbers of those that have the task token and have not ended; `is_recovering` says that
    an attempt ended for another reason than missing capacity. `completed` are the numbers of
    those whose program was done.
    """

    last: int = 0
    pool: str = ""
    pool_attempt: int = 0
    running: frozenset[int] = frozenset()
    is_recovering: bool = False
    completed: frozenset[int] = frozenset()
    interruptions: int = 0
    failures: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job from request to result.

    `fence` is the highest attempt that was given a task token: a commit, heartbeat or report of a
    lower one is refused. `newest` is the manifest key of the newest whole checkpoint, `step` its
    step (None when its files do not say), `save` its number and `committed_at` when it became the
    newest. `save` counts the commits of the whole run and never goes back; it is 0 for a run that
    only an older version has saved. `best_step` is the highest step ever committed,
    `progressed_attempt` the last attempt that made progress, `proven` the key of the newest
    manifest that a trainer continued from, and `suspects` are the keys of manifests from which a
    trainer died. `execution` is the name of the run's current execution, `executions` counts them,
    and `first_attempt` is the first attempt of the current one; `ancestors` are the ARNs of
    executions that continued in it and wait for its end. `environment_generation` counts how often
    the recorded versions of the run's packages were dropped: each generation has a record of its
    own. `ended` holds the final status; None while the run may still move. `notified_end` is the
    `ended_at` that people were notified of. `input_bytes` is the size of all inputs when the run
    began, `code_bytes` that of the packed code, and `newest_bytes` that of the newest checkpoint, 0
    if an earlier version stored it. `summary` is None for a run that an earlier version stored.
    `image` is that of a run in containers, once known. `metrics` are those of its result, which its
    program wrote into a file of its outputs. `mlflow_run` is the run of MLflow that its program has
    named. `subject` is the checkpoint that it evaluates, and
    `evaluated_save` the number of the last save that an evaluation of every checkpoint has
    evaluated. `pins` are those of other runs that need one of its checkpoints.
    """

    run_id: str
    request: RunRequest
    started_at: datetime
    execution: str
    execution_arn: str
    executions: int = 1
    first_attempt: int = 1
    ancestors: tuple[str, ...] = ()
    environment_generation: int = 0
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
    input_bytes: int = 0
    code_bytes: int = 0
    newest_bytes: int = 0
    summary: AttemptsSummary | None = AttemptsSummary()
    image: Image | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    mlflow_run: str = ""
    subject: Subject | None = None
    evaluated_save: int = 0
    pins: frozenset[str] = frozenset()

    @property
    def is_settled(self) -> bool:
        """Whether it ended and the end was announced, which is the last step of a run."""
        return self.ended_at is not None and self.notified_end == self.ended_at


class AttemptStage(str, Enum):
    """The stages of an attempt, which only moves forward."""

    LAUNCHING = "launching"  # the exact request is on record, EC2 may or may not have it
    LAUNCHED = "launched"  # its instances are known
    RUNNING = "running"  # it has the task token
    ENDED = "ended"


@dataclass(frozen=True)
class KeptNode:
    """An instance of an earlier attempt that a gang keeps, and its capacity pool."""

    instance_id: str
    pool: str = ""


@dataclass(frozen=True)
class Launched:
    """An attempt whose machines are launched with a CreateFleet request, kept for verbatim replay.

    `plan` is the reason of the launch plan: why it requests these pools, or nothing yet. `kept` are
    the machines that a gang has already, in the order of their new ranks; those that are launched
    follow them. If nothing is to be launched, `fleet_request` is empty.
    """

    fleet_request: str = ""
    plan: str = ""
    kept: tuple[KeptNode, ...] = ()


@dataclass(frozen=True)
class Existing:
    """An attempt on a machine that existed before the run and is not ours to terminate."""

    instance_id: str


@dataclass(frozen=True)
class Warm:
    """An attempt on an instance that an earlier run of its group has left, and that is ours to end.

    `plan` says so to people.
    """

    instance_id: str
    plan: str = "a warm instance of the group"


Source = Launched | Existing | Warm


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a run: the aggregate of its nodes, several of them in a gang.

    `has_token` says that it was given a Step Functions task token, which the ledger stores apart.
    `source` says where its machines come from. `ended` is set once and never changed. `nodes` are
    in the order of their ranks. What people see of an attempt is what its lead reports.
    """

    run_id: str
    number: int
    stage: AttemptStage
    launch_try: int = 1
    source: Source = Launched()
    has_token: bool = False
    launched_at: datetime | None = None
    running_at: datetime | None = None
    ended_at: datetime | None = None
    ended: Outcome | None = None
    nodes: tuple[Node, ...] = ()

    @property
    def lead(self) -> Node | None:
        """The node that acts for the attempt: the lowest rank whose machine is not gone."""
        present = (node for node in self.nodes if node.stage is not NodeStage.GONE)
        return next(present, self.nodes[0] if self.nodes else None)

    def node_of(self, instance_id: str) -> Node | None:
        """Return the node on an instance, None where that is not a machine of the attempt."""
        return next((node for node in self.nodes if node.instance_id == instance_id), None)

    def noticed_at_on(self, instance_id: str) -> datetime | None:
        """Return when the notice of an instance became known; of an unrecorded one, any notice."""
        node = self.node_of(instance_id)
        return self.noticed_at if node is None else node.noticed_at

    @property
    def instance_ids(self) -> tuple[str, ...]:
        """The instances of its nodes that are known."""
        return tuple(node.instance_id for node in self.nodes if node.instance_id)

    @property
    def was_launched(self) -> bool:
        """Whether machines were ever running for it."""
        return bool(self.instance_ids)

    @property
    def pool(self) -> str:
        """The capacity pool of its lead."""
        return self.lead.pool if self.lead else ""

    @property
    def heartbeat_at(self) -> datetime | None:
        """When one of its agents last sent a heartbeat."""
        return max((node.heartbeat_at for node in self.nodes if node.heartbeat_at), default=None)

    @property
    def noticed_at(self) -> datetime | None:
        """When the first interruption notice of one of its nodes became known."""
        return min((node.noticed_at for node in self.nodes if node.noticed_at), default=None)

    @property
    def progress(self) -> NodeProgress:
        """The last report of its lead."""
        return self.lead.progress if self.lead else NodeProgress()

    @property
    def phase(self) -> str:
        """The phase that its lead is in."""
        return self.progress.phase

    @property
    def resume_step(self) -> int | None:
        """The step that it started from, None where that is not known."""
        return self.progress.resume_step

    @property
    def resume_save(self) -> int | None:
        """The number of the save that it started from, None for the very beginning."""
        return self.progress.resume_save

    @property
    def progress_step(self) -> int | None:
        """The last step that its trainer reported, committed or not."""
        return self.progress.step

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last values that its trainer reported."""
        return self.progress.metrics

    @property
    def timeline(self) -> Mapping[str, datetime]:
        """The instants that its lead's agent saw, by their names."""
        return self.progress.timeline

    @property
    def saving(self) -> Saving | None:
        """The cost and frequency of its saves, as its lead measured them."""
        return self.progress.saving

    @property
    def staging(self) -> Staging | None:
        """How much of the inputs its lead has, None without inputs."""
        return self.progress.staging

    @property
    def service(self) -> Service | None:
        """The server of its lead, None for a run that is not a service."""
        return self.progress.service

    @property
    def environment_bytes(self) -> int:
        """The size of the environment of any of its nodes, 0 if none has reported it."""
        return max((node.progress.environment_bytes for node in self.nodes), default=0)

    @property
    def shards(self) -> ShardProgress | None:
        """How many shards are done, as its lead counts them; None for another kind of run."""
        return self.progress.shards

    @property
    def warning(self) -> str:
        """The warning about it that people should see while it lives."""
        return self.progress.warning

    @property
    def fleet_request(self) -> str:
        """The CreateFleet request as sent; empty on an existing instance."""
        return self.source.fleet_request if isinstance(self.source, Launched) else ""

    @property
    def kept(self) -> tuple[KeptNode, ...]:
        """The machines of an earlier attempt that a gang keeps, in the order of their ranks."""
        return self.source.kept if isinstance(self.source, Launched) else ()

    @property
    def plan(self) -> str:
        """Why its launch requests the pools that it does; empty on an existing instance."""
        return "" if isinstance(self.source, Existing) else self.source.plan

    @property
    def is_on_existing_instance(self) -> bool:
        """Whether its machine existed before the run, and is not ours to terminate."""
        return isinstance(self.source, Existing)

    @property
    def is_on_warm_instance(self) -> bool:
        """Whether its machine was launched for an earlier run of its group."""
        return isinstance(self.source, Warm)


def best_of(best: int | None, step: int) -> int:
    """Return the highest step committed so far, `step` included."""
    return step if best is None else max(best, step)


def already_ended(run: Run) -> RunEndedError:
    """Return the error of starting something for an ended run, as a redriven execution does."""
    status = "" if run.ended is None else run.ended.value
    return RunEndedError(
        f"the run {run.run_id} has ended: {status}; to continue it, use "
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


def _first_pool(attempt: Attempt) -> str:
    return attempt.nodes[0].pool if attempt.nodes else ""


def summarize(attempts: Sequence[Attempt]) -> AttemptsSummary:
    """Summarize a run's attempts, given in the order of their numbers."""
    ends = [attempt.ended for attempt in attempts if attempt.ended is not None]
    launched = next(filter(_first_pool, reversed(attempts)), None)
    return AttemptsSummary(
        last=attempts[-1].number if attempts else 0,
        pool=_first_pool(launched) if launched else "",
        pool_attempt=launched.number if launched else 0,
        running=frozenset(
            attempt.number for attempt in attempts if attempt.stage is AttemptStage.RUNNING
        ),
        is_recovering=any(end.kind is not OutcomeKind.NO_CAPACITY for end in ends),
        completed=frozenset(
            attempt.number
            for attempt in attempts
            if attempt.ended is not None and attempt.ended.kind is OutcomeKind.COMPLETED
        ),
        interruptions=sum(end.kind in INTERRUPTIONS for end in ends),
        failures=sum(is_own_failure(end) for end in ends),
    )


def status_of(run: Run, summary: AttemptsSummary) -> RunStatus:
    """Return the status of a run from a summary of its attempts.

    Between the end of its last attempt and its own, a run that is done is not recovering.
    """
    if run.ended is not None:
        return run.ended
    if not summary.last:
        return RunStatus.PENDING
    if summary.running or summary.last in summary.completed:
        return RunStatus.RUNNING
    return RunStatus.RECOVERING if summary.is_recovering else RunStatus.LAUNCHING


def derive_status(run: Run, attempts: Sequence[Attempt]) -> RunStatus:
    """Return the status of a run from its attempts, given in the order of their numbers."""
    return status_of(run, summarize(attempts))
