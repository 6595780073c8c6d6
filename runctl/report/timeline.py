"""The timeline of a run: its attempts in order, each with what happened to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage, Launched
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging
from runctl.report.machine_time import MachineTime, machine_times
from runctl.report.nodes import NodeEntry, nodes_of
from runctl.report.wording import instant_text


@dataclass(frozen=True, kw_only=True)
class AttemptEntry:
    """An attempt in a timeline: everything that the ledger holds of it except its secrets.

    `plan` says why its launch requests the pools that it does. `step` is the last step that its
    trainer reported, `took` the time since its launch, or from its launch to its end, and
    `instants` has what the agent saw, by name. `machine_time` is by market. `nodes` are those of a
    gang, empty for a single machine. `is_launched`: its machines are launched for it, and did not
    exist before. `requested` machines are launched for it, and `kept` are those
    that it has from an earlier attempt.
    """

    number: int
    stage: AttemptStage
    outcome: Outcome | None
    plan: str
    pool: str
    instance_ids: tuple[str, ...]
    launched_at: datetime | None
    running_at: datetime | None
    heartbeat_at: datetime | None
    noticed_at: datetime | None
    ended_at: datetime | None
    took: timedelta | None
    phase: str
    resume_step: int | None
    resume_save: int | None
    step: int | None
    metrics: Mapping[str, float]
    instants: Mapping[str, datetime]
    saving: Saving | None
    staging: Staging | None
    service: Service | None
    shards: ShardProgress | None
    warning: str
    machine_time: MachineTime
    nodes: tuple[NodeEntry, ...]
    is_launched: bool
    requested: int
    kept: int

    @property
    def is_live(self) -> bool:
        """Whether it has not ended."""
        return self.outcome is None

    @property
    def kind(self) -> OutcomeKind | None:
        """How it ended, None while it is live."""
        return None if self.outcome is None else self.outcome.kind

    @property
    def reason(self) -> str:
        """Why it ended."""
        return "" if self.outcome is None else self.outcome.reason

    @property
    def state(self) -> str:
        """How it ended, or what it is doing: its phase, once the agent has reported one."""
        if self.outcome is not None:
            return self.outcome.kind.value
        if self.stage is AttemptStage.LAUNCHING or not self.phase:
            # The token of a gang may arrive before its lead has booted.
            has_machines = self.stage is AttemptStage.RUNNING and bool(self.nodes)
            is_booting = self.stage is AttemptStage.LAUNCHED or has_machines
            if is_booting and not self.is_launched:
                return "assigned"
            return "booting" if is_booting else self.stage.value
        return self.phase

    @property
    def is_training(self) -> bool:
        """Whether its trainer was started and the attempt has not ended."""
        return self.stage is AttemptStage.RUNNING and "started" in self.instants

    @property
    def is_ready(self) -> bool:
        """Whether it has a server that is ready."""
        return self.is_live and self.service is not None and self.service.is_ready

    @property
    def is_from_beginning(self) -> bool:
        """Whether it started without a checkpoint."""
        return self.resume_step is None and not self.resume_save

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of its agents, in a gang with the rank of the node."""
        if not self.nodes:
            return (self.warning,) if self.warning else ()
        texts = ((node.rank, node.warning) for node in self.nodes if node.warning)
        # The lead's warning about a straggler names that node already.
        return tuple(
            text if text.startswith("node ") else f"node {rank}: {text}" for rank, text in texts
        )

    @property
    def reached_step(self) -> int | None:
        """The highest step that it reported or saved."""
        saved = None if self.outcome is None else self.outcome.step
        return max((step for step in (self.step, saved) if step is not None), default=None)

    @property
    def last_save(self) -> int | None:
        """The number of the save with which it ended."""
        return None if self.outcome is None else self.outcome.save

    def as_document(self) -> dict[str, Any]:
        """Return the attempt as `runctl status --json` prints it."""
        return {
            "number": self.number,
            "stage": self.stage.value,
            "outcome": None if self.outcome is None else self.outcome.as_document(),
            "plan": self.plan,
            "pool": self.pool,
            "instance_ids": list(self.instance_ids),
            "launched_at": instant_text(self.launched_at),
            "running_at": instant_text(self.running_at),
            "heartbeat_at": instant_text(self.heartbeat_at),
            "noticed_at": instant_text(self.noticed_at),
            "ended_at": instant_text(self.ended_at),
            "phase": self.phase,
            "resume_step": self.resume_step,
            "resume_save": self.resume_save,
            "step": self.step,
            "metrics": dict(self.metrics),
            "timeline": {name: instant_text(instant) for name, instant in self.instants.items()},
            "saving": None if self.saving is None else _saving_document(self.saving),
            "staging": None if self.staging is None else self.staging.as_document(),
            "service": None if self.service is None else self.service.as_document(),
            **({} if self.shards is None else {"shards": shards_document(self.shards)}),
            "warning": self.warning,
            "machine_seconds": {
                market: round(time.total_seconds()) for market, time in self.machine_time.items()
            },
            **({"nodes": [node.as_document() for node in self.nodes]} if self.nodes else {}),
        }


def timeline_of(
    attempts: Sequence[Attempt], *, now: datetime, world: int = 1
) -> tuple[AttemptEntry, ...]:
    """Return the timeline of a run's attempts, given in the order of their numbers.

    Of the nodes of each attempt, `world` train, and the others are spares.
    """
    times = machine_times(attempts, now=now)
    return tuple(
        _entry(attempt, time, now=now, world=world)
        for attempt, time in zip(attempts, times, strict=True)
    )


def _entry(attempt: Attempt, time: MachineTime, *, now: datetime, world: int) -> AttemptEntry:
    launched_at = attempt.launched_at
    return AttemptEntry(
        number=attempt.number,
        stage=attempt.stage,
        outcome=attempt.ended,
        plan=attempt.plan,
        pool=attempt.pool,
        instance_ids=attempt.instance_ids,
        launched_at=launched_at,
        running_at=attempt.running_at,
        heartbeat_at=attempt.heartbeat_at,
        noticed_at=attempt.noticed_at,
        ended_at=attempt.ended_at,
        took=None if launched_at is None else (attempt.ended_at or now) - launched_at,
        phase=attempt.phase,
        resume_step=attempt.resume_step,
        resume_save=attempt.resume_save,
        step=attempt.progress_step,
        metrics=dict(attempt.metrics),
        instants=dict(attempt.timeline),
        saving=attempt.saving,
        staging=attempt.staging,
        service=attempt.service,
        shards=attempt.shards,
        warning=attempt.warning,
        machine_time=time,
        nodes=nodes_of(attempt, world=world),
        is_launched=isinstance(attempt.source, Launched),
        requested=max(len(attempt.nodes) - len(attempt.kept), 0),
        kept=len(attempt.kept),
    )


def _saving_document(saving: Saving) -> dict[str, Any]:
    return {**saving.as_document(), "fits_notice": saving.fits_notice}


def shards_document(shards: ShardProgress) -> dict[str, Any]:
    """Return the shards as `runctl status --json` prints them."""
    left = shards.left
    seconds = None if left is None else round(left.total_seconds())
    return {**shards.as_document(), "remaining_seconds": seconds}
