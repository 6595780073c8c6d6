"""The machines that a gang keeps for its next attempt, and how many it still needs. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from runctl.model.node import Node, NodeStage
from runctl.model.outcome import OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, KeptNode, Run

# For so long after the end of an attempt only the missing machines are requested, in the zone of
# the others; after that, all of them anywhere.
REPAIR_FOR = timedelta(minutes=10)
# Nodes report every few seconds. One that is so far behind the others is not there any more.
BEHIND = timedelta(seconds=30)
# If the newest report of all of them is so old, nobody is there.
SILENT_FOR = timedelta(minutes=2)
# From the token to the first report of an agent whose machine still boots.
BOOT_FOR = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class GangPlan:
    """The next attempt of a gang.

    `kept` are the survivors, in the order of their new ranks. `missing` is the number of machines
    to launch, spares included, of which `needed` are not spares. `fewest` is the number of nodes
    without which it does not train, and `nodes` that of nodes that train if none is missing.
    `repair_until` is when it gives up on the survivors, None without any.
    """

    nodes: int
    fewest: int
    missing: int
    needed: int
    kept: tuple[KeptNode, ...] = ()
    repair_until: datetime | None = None

    @property
    def total(self) -> int:
        """The number of machines of the attempt, spares included."""
        return len(self.kept) + self.missing

    @property
    def can_train(self) -> bool:
        """Whether the survivors are enough to train without any other."""
        return len(self.kept) >= self.fewest

    @property
    def pool(self) -> Pool | None:
        """The pool of the first survivor, next to which the others are launched."""
        return Pool.parse(self.kept[0].pool) if self.kept and self.kept[0].pool else None


def plan_gang(
    run: Run, attempts: Sequence[Attempt], *, now: datetime, gone: Collection[str] = ()
) -> GangPlan:
    """Return whom the next attempt of a gang keeps, and how many machines it lacks.

    `attempts` are the earlier ones in the order of their numbers, and `gone` are instances that EC2
    is known to have ended.
    """
    gang = run.request.gang
    wanted = gang.nodes + gang.spares
    found = [node for node in survivors(attempts, now=now) if node.instance_id not in gone]
    kept = tuple(KeptNode(node.instance_id, node.pool) for node in found[:wanted])
    last = last_launched(attempts)
    lost_at = None if last is None else last.ended_at or last.noticed_at
    return GangPlan(
        nodes=gang.nodes,
        fewest=gang.fewest,
        missing=wanted - len(kept),
        needed=max(gang.nodes - len(kept), 0),
        kept=kept,
        repair_until=(lost_at or now) + REPAIR_FOR if kept else None,
    )


def survivors(attempts: Sequence[Attempt], *, now: datetime) -> tuple[Node, ...]:
    """Return the nodes of the last attempt with machines that can go on, by rank.

    Those are left out that have a notice, are gone, or were the reason of its end; so are those
    that are silent. An attempt that never ran has no reports to judge by. After a full disk nobody
    is kept, because the next attempt needs larger disks, and nobody after an attempt that was lost
    without a single report.
    """
    last = last_launched(share_losses(attempts))
    if last is None or not _may_be_repaired(last, now=now):
        return ()
    lost = last.ended.lost_ranks if last.ended else ()
    return tuple(
        node
        for node in last.nodes
        if node.is_live
        and node.noticed_at is None
        and node.rank not in lost
        and _is_heard(last, node, now=now)
    )


def last_launched(attempts: Sequence[Attempt]) -> Attempt | None:
    """Return the last attempt that has machines."""
    return next((attempt for attempt in reversed(attempts) if attempt.was_launched), None)


def holders_of(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Return the number of the last attempt that has each instance, whatever its tags say."""
    return {
        instance_id: attempt.number for attempt in attempts for instance_id in attempt.instance_ids
    }


def share_losses(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts with what any of them knows of a machine, in each that has it.

    A notice or an end is recorded on one node; the machine may have others, which a gang has kept.
    """
    known = [node for attempt in attempts for node in attempt.nodes if node.instance_id]
    gone = {node.instance_id for node in known if node.stage is NodeStage.GONE}
    noticed: dict[str, datetime] = {}
    for node in known:
        if node.noticed_at is not None:
            first = noticed.get(node.instance_id, node.noticed_at)
            noticed[node.instance_id] = min(first, node.noticed_at)

    def complete(node: Node) -> Node:
        return replace(
            node,
            noticed_at=noticed.get(node.instance_id, node.noticed_at),
            stage=NodeStage.GONE if node.instance_id in gone else node.stage,
        )

    if not gone and not noticed:
        return list(attempts)
    return [replace(attempt, nodes=tuple(map(complete, attempt.nodes))) for attempt in attempts]


def is_of_gang(attempt: Attempt) -> bool:
    """Whether an attempt has, or may be continued by, several nodes."""
    return len(attempt.nodes) > 1 or bool(attempt.kept)


def saving_instance(attempt: Attempt, instance_id: str) -> str:
    """Return whose agent is asked for a checkpoint that a machine of an attempt needs.

    In a gang that of rank 0: its program agrees with the others on the step.
    """
    return attempt.nodes[0].instance_id or instance_id if is_of_gang(attempt) else instance_id


def is_spare(run: Run, node: Node) -> bool:
    """Whether a node of a gang only waits to take the place of a lost one."""
    return run.request.gang.is_gang and node.rank >= run.request.gang.nodes


def _may_be_repaired(attempt: Attempt, *, now: datetime) -> bool:
    if attempt.ended is None:
        return True
    if attempt.ended.is_disk_full or attempt.ended_at is None or _was_never_heard_of(attempt):
        return False
    return now - attempt.ended_at < REPAIR_FOR


def _was_never_heard_of(attempt: Attempt) -> bool:
    """Whether an attempt counted as lost without a report of any of its agents.

    Machines that were kept for it have gone silent since then. By the clock of the ledger they may
    still have time to boot: the token is stored some time after the state machine begins to wait.
    """
    is_lost = attempt.ended is not None and attempt.ended.kind is OutcomeKind.LOST
    return is_lost and all(node.heartbeat_at is None for node in attempt.nodes)


def _is_heard(attempt: Attempt, node: Node, *, now: datetime) -> bool:
    if attempt.running_at is None:
        return True
    if node.heartbeat_at is None:
        return now - attempt.running_at < BOOT_FOR
    newest = attempt.heartbeat_at or node.heartbeat_at
    return newest - node.heartbeat_at < BEHIND and now - newest < SILENT_FOR
