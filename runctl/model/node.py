"""Nodes: the machines of an attempt, each with what its own agent reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from runctl.model.gang import GangReport
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging


class NodeId(NamedTuple):
    """The name of a node: its run, the number of its attempt, and its rank there, from 0."""

    run_id: str
    attempt: int
    rank: int


class NodeStage(str, Enum):
    """The stages of a node."""

    LAUNCHING = "launching"  # its instance is requested, and not known yet
    LAUNCHED = "launched"  # its instance is known
    RUNNING = "running"  # its agent has reported progress
    GONE = "gone"  # its instance is stopped or terminated


@dataclass(frozen=True, kw_only=True)
class NodeProgress:
    """The report of the agent of a node, sent with each heartbeat.

    `phase` is what it is doing: boot, environment, inputs, restore, wait, train, process, start,
    serve, drain, upload, done. `resume_save` is the number of the save that the trainer started
    from, None for the very beginning, and `resume_step` its step, None where that is not known;
    `step` is the last step that the trainer reported, committed or not. `timeline` has the instants
    that the agent saw: detected, sigterm, exited, committed, booted, inputs_ready, restored,
    started, first_step, ready. `staging` is how much of the inputs is there, None without inputs,
    `service` is the server of a service, and `shards` how many shards are done, None for a run that
    processes none. `not_finite` are the metrics whose last value is NaN or infinite; `metrics` has
    those of the others. `environment_bytes` is the size of the environment's files, 0 while it is
    not known. `gang` is what a node of several reports to the others, None for a single one.
    """

    phase: str = ""
    resume_step: int | None = None
    resume_save: int | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    not_finite: frozenset[str] = frozenset()
    timeline: Mapping[str, datetime] = field(default_factory=dict)
    saving: Saving | None = None
    staging: Staging | None = None
    service: Service | None = None
    environment_bytes: int = 0
    shards: ShardProgress | None = None
    gang: GangReport | None = None
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of an attempt.

    `instance_id` and `pool` are empty until its instance is known. `noticed_at` is when the
    interruption notice of this machine became known, by whichever detector.
    """

    run_id: str
    attempt: int
    rank: int = 0
    stage: NodeStage = NodeStage.LAUNCHING
    instance_id: str = ""
    pool: str = ""
    heartbeat_at: datetime | None = None
    noticed_at: datetime | None = None
    progress: NodeProgress = NodeProgress()

    @property
    def node_id(self) -> NodeId:
        """The name of the node."""
        return NodeId(self.run_id, self.attempt, self.rank)

    @property
    def is_live(self) -> bool:
        """Whether its instance is known, and not known to be gone."""
        return bool(self.instance_id) and self.stage is not NodeStage.GONE
