"""The nodes in the ledger, from their instances to what their agents report."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from runctl.aws.attempt_ledger import AttemptLedger
from runctl.aws.attributes import Item, text_of
from runctl.aws.items import node_values, progress_values
from runctl.aws.table import put_of, update_of
from runctl.model import identity
from runctl.model.errors import FencedError, NotFoundError
from runctl.model.node import Node, NodeId, NodeProgress, NodeStage
from runctl.model.run import Attempt, AttemptStage, KeptNode


class NodeLedger(AttemptLedger):
    """The moves of the nodes of an attempt.

    A node has an item of its own, so that agents of one attempt do not write to the same item.
    Attempts that an earlier version opened have none: their node's item is made when it is first
    written.
    """

    def record_launch(
        self,
        run_id: str,
        number: int,
        *,
        instance_ids: Sequence[str],
        pool: str,
        now: datetime,
        kept: Sequence[KeptNode] = (),
    ) -> Attempt:
        """Store the nodes' instances by rank, unless the attempt has some or ended.

        Those that are `kept` come first; events about them are those of this attempt from here.
        """
        instances = [*kept, *(KeptNode(instance_id, pool) for instance_id in instance_ids)]
        self._transact_of_live_run(
            run_id,
            number,
            *launch_of(run_id, number, instances=instances, now=now),
            *(
                put_of(owner_of(NodeId(run_id, number, rank), instance.instance_id))
                for rank, instance in enumerate(instances)
            ),
            pool=instances[0].pool,
        )
        return self._attempt_of_live_run(run_id, number)

    def record_existing_instance(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: NodeId | None,
        now: datetime,
    ) -> Attempt:
        """Give the attempt an existing instance unless another attempt has it."""
        node = NodeId(run_id, number, 0)
        owner = instead_of or node
        self._transact_of_live_run(
            run_id,
            number,
            *launch_of(run_id, number, instances=[KeptNode(instance_id, pool)], now=now),
            put_of(
                owner_of(node, instance_id),
                condition="attribute_not_exists(#pk) "
                "OR (#run_id = :owner AND #number = :owners_number)",
                values={"owner": owner.run_id, "owners_number": owner.attempt},
            ),
            pool=pool,
        )
        return self._attempt_of_live_run(run_id, number)

    def find_instance(self, instance_id: str) -> NodeId | None:
        """Return the node on an instance, or None for an instance that is not ours."""
        item = self._table.get(identity.instance_key(instance_id))
        if item is None:
            return None
        # Earlier versions have one machine for each attempt, and store no rank.
        return NodeId(item["run_id"], int(item["number"]), int(item.get("rank", 0)))

    def record_notice(self, node: NodeId, *, now: datetime) -> bool:
        """Record that the interruption is known; return True if this is the first record."""
        if self._write_notice(node, now=now):
            return True
        return self._create_node(node) and self._write_notice(node, now=now)

    def record_gone(self, node: NodeId) -> None:
        """Record that the instance of a node is stopped or terminated."""
        self._table.update(
            identity.node_key(*node),
            update="SET #stage = :gone",
            condition="attribute_exists(#pk)",
            values={"gone": NodeStage.GONE.value},
        )

    def record_progress(self, node: NodeId, progress: NodeProgress, *, now: datetime) -> None:
        """Store the heartbeat of a node's agent on its own item.

        A read and a write, not a transaction: only that node is written, so a write that slips
        through while the fence moves does no harm, and the next one is refused. An empty warning
        clears the last one.
        """
        run = self._run(node.run_id)
        if run.fence > node.attempt:
            raise FencedError(
                f"attempt {run.fence} of {node.run_id} has the fence, not {node.attempt}"
            )
        if self._write_progress(node, progress, now=now) is not None:
            return
        if not self._create_node(node) or self._write_progress(node, progress, now=now) is None:
            raise NotFoundError(f"the run {node.run_id} has no attempt {node.attempt}")

    def _write_notice(self, node: NodeId, *, now: datetime) -> bool:
        item = self._table.update(
            identity.node_key(*node),
            update="SET #noticed_at = :now",
            condition="attribute_exists(#pk) AND attribute_not_exists(#noticed_at)",
            values={"now": text_of(now)},
        )
        return item is not None

    def _write_progress(self, node: NodeId, progress: NodeProgress, *, now: datetime) -> Any:
        values = {
            **progress_values(progress),
            "stage": NodeStage.RUNNING.value,
            "heartbeat_at": text_of(now),
        }
        given = {name: value for name, value in values.items() if value is not None}
        instants = {name: text_of(instant) for name, instant in progress.timeline.items()}
        assignments = [f"#{name} = :{name}" for name in given]
        assignments += [f"#timeline.#{name} = :{name}" for name in instants]
        # Its starting point may change within the attempt, also to a checkpoint without a step.
        resumes_without_step = progress.resume_save is not None and progress.resume_step is None
        removal = " REMOVE #resume_step" * resumes_without_step
        return self._table.update(
            identity.node_key(*node),
            update=f"SET {', '.join(assignments)}{removal}",
            condition="attribute_exists(#pk)",
            values={**given, **instants},
        )

    def _create_node(self, node: NodeId) -> bool:
        """Make the item of a node unless it exists; return False if there is no such attempt."""
        if self.find_attempt(node.run_id, node.attempt) is None:
            return False
        values = node_values(Node(run_id=node.run_id, attempt=node.attempt, rank=node.rank))
        # An update, since agents may not put items.
        self._table.update(
            identity.node_key(*node),
            update=f"SET {', '.join(f'#{name} = :{name}' for name in values)}",
            condition="attribute_not_exists(#pk)",
            values=values,
        )
        return True


def launch_of(
    run_id: str, number: int, *, instances: Sequence[KeptNode], now: datetime
) -> list[Item]:
    """Return the writes of a launch to the items of the attempt and its nodes, by rank.

    The attempt keeps instances and pool, too: agents, functions and command lines of earlier
    versions look for them there.
    """
    attempt = update_of(
        identity.attempt_key(run_id, number),
        update="SET #instance_ids = :ids, #pool = :pool, #launched_at = :now, #stage = :launched",
        condition="#stage = :launching",
        values={
            "ids": [instance.instance_id for instance in instances],
            "pool": instances[0].pool,
            "now": text_of(now),
            "launching": AttemptStage.LAUNCHING.value,
            "launched": AttemptStage.LAUNCHED.value,
        },
    )
    return [
        attempt,
        *(
            _node_launch(NodeId(run_id, number, rank), instance.instance_id, instance.pool)
            for rank, instance in enumerate(instances)
        ),
    ]


def _node_launch(node: NodeId, instance_id: str, pool: str) -> Item:
    return update_of(
        identity.node_key(*node),
        update="SET #run_id = :run_id, #number = :number, #rank = :rank, "
        "#timeline = if_not_exists(#timeline, :empty), #stage = :launched, "
        "#instance_id = :instance_id, #pool = :pool",
        condition="",
        values={
            "run_id": node.run_id,
            "number": node.attempt,
            "rank": node.rank,
            "empty": {},
            "launched": NodeStage.LAUNCHED.value,
            "instance_id": instance_id,
            "pool": pool,
        },
    )


def owner_of(node: NodeId, instance_id: str) -> Item:
    """Return the item that names the node on an instance."""
    return {
        **identity.instance_key(instance_id),
        "run_id": node.run_id,
        "number": node.attempt,
        "rank": node.rank,
    }
