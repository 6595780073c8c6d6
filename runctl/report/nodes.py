"""The nodes of an attempt of a gang, each with what its own agent reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runctl.model.gang import GangReport, NodeEnd
from runctl.model.node import Node, NodeStage
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt
from runctl.report.wording import instant_text

# The phase of a node that waits for the others.
_WAIT = "wait"


@dataclass(frozen=True, kw_only=True)
class NodeEntry:
    """A node of an attempt.

    `is_spare`: it waits to take the place of a lost node. `is_kept`: its machine is one of an
    earlier attempt. `is_lost`: the attempt has ended because of it. `busy_seconds` is the time
    that its slowest process has computed, without the waits for others, None if it does not say.
    """

    rank: int
    instance_id: str
    pool: str
    stage: NodeStage
    phase: str
    step: int | None
    heartbeat_at: datetime | None
    noticed_at: datetime | None
    is_spare: bool
    is_kept: bool
    is_lost: bool
    is_ready: bool
    processes: int
    busy_seconds: float | None
    ended: NodeEnd | None
    warning: str

    @property
    def state(self) -> str:
        """What it is doing, or how its program has ended."""
        if self.is_lost:
            return "lost"
        if self.ended is not None:
            return _end(self.ended)
        if self.stage is NodeStage.GONE:
            return "gone"
        if self.stage is NodeStage.LAUNCHING or not self.phase:
            return "booting" if self.instance_id else "requested"
        if self.is_ready and self.phase == _WAIT:
            return "spare" if self.is_spare else "ready"
        return self.phase

    def as_document(self) -> dict[str, Any]:
        """Return the node as `runctl status --json` prints it."""
        return {
            "rank": self.rank,
            "instance_id": self.instance_id,
            "pool": self.pool,
            "stage": self.stage.value,
            "state": self.state,
            "phase": self.phase,
            "step": self.step,
            "heartbeat_at": instant_text(self.heartbeat_at),
            "noticed_at": instant_text(self.noticed_at),
            "is_spare": self.is_spare,
            "is_kept": self.is_kept,
            "is_lost": self.is_lost,
            "is_ready": self.is_ready,
            "processes": self.processes,
            "busy_seconds": None if self.busy_seconds is None else round(self.busy_seconds, 2),
            "ended": None if self.ended is None else self.ended.as_document(),
            "warning": self.warning,
        }


def nodes_of(attempt: Attempt, *, world: int) -> tuple[NodeEntry, ...]:
    """Return the nodes of an attempt of which `world` train; empty for that of a single machine."""
    is_gang = len(attempt.nodes) > 1 or any(node.progress.gang for node in attempt.nodes)
    if not is_gang:
        return ()
    kept = {node.instance_id for node in attempt.kept}
    lost = () if attempt.ended is None else attempt.ended.lost_ranks
    return tuple(
        _entry(
            node,
            is_spare=node.rank >= world,
            is_kept=node.instance_id in kept,
            is_lost=node.rank in lost,
        )
        for node in attempt.nodes
    )


def _entry(node: Node, *, is_spare: bool, is_kept: bool, is_lost: bool) -> NodeEntry:
    gang = node.progress.gang or GangReport()
    return NodeEntry(
        rank=node.rank,
        instance_id=node.instance_id,
        pool=node.pool,
        stage=node.stage,
        phase=node.progress.phase,
        step=node.progress.step,
        heartbeat_at=node.heartbeat_at,
        noticed_at=node.noticed_at,
        is_spare=is_spare,
        is_kept=is_kept,
        is_lost=is_lost,
        is_ready=gang.is_ready,
        processes=gang.processes,
        busy_seconds=_computed(gang),
        ended=gang.ended,
        warning=node.progress.warning,
    )


def _computed(gang: GangReport) -> float | None:
    return max((pulse.busy_seconds for pulse in gang.ranks if pulse.entered), default=None)


def _end(end: NodeEnd) -> str:
    if end.was_stopped:
        return "stopped"
    if end.outcome.kind is OutcomeKind.COMPLETED:
        return "done"
    code = end.outcome.exit_code
    return end.outcome.kind.value if code is None else f"exit code {code}"
