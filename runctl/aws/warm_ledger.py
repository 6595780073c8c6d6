"""The warm instances in the ledger, from the offer of an agent to the next claim."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runctl.aws.attributes import Item, text_of
from runctl.aws.group_items import read_warm
from runctl.aws.node_ledger import NodeLedger, launch_of, owner_of
from runctl.aws.table import expressions, put_of, update_of
from runctl.model import identity
from runctl.model.group import WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.model.run import Attempt, KeptNode
from runctl.policy.warm import waited

# The node that an item names, in a condition; `_node_values` are its values.
_IS_NODE = "#run_id = :run_id AND #number = :number"


class WarmLedger(NodeLedger):
    """The moves of a warm instance, each a conditional write on its own item.

    The item outlasts the instance: an event or a call that is late finds what became of it. Its
    agent writes it as well. In the list of the group, which only functions write, an instance is
    from its first wait on; if its agent has left meanwhile, a claim fails.
    """

    def offer_warm(self, offer: WarmInstance) -> WarmInstance:
        """Record that the agent of `offer.node` waits for another run, unless it is known."""
        values: dict[str, Any] = {
            "group_id": offer.group_id,
            "instance_id": offer.instance_id,
            "rank": offer.node.rank,
            "disk_bytes": offer.disk_bytes,
            "stage": WarmStage.OFFERED.value,
            **_node_values(offer.node),
        }
        assignments = ", ".join(f"#{name} = :{name}" for name in values)
        # An update, since agents may not put items.
        item = self._table.update(
            identity.warm_key(offer.group_id, offer.instance_id),
            update=f"SET {assignments}",
            condition=f"attribute_not_exists(#pk) OR (#stage = :claimed AND {_IS_NODE})",
            values={**values, "claimed": WarmStage.CLAIMED.value},
        )
        if item is not None:
            return read_warm(item)
        return self.find_warm(offer.group_id, offer.instance_id) or offer

    def keep_warm(
        self,
        group_id: str,
        instance_id: str,
        *,
        node: NodeId,
        pool: str,
        keep_seconds: int,
        now: datetime,
    ) -> bool:
        """Let an offered instance wait for a claim; return whether it waits, or waited before."""
        held = self.find_warm(group_id, instance_id)
        if held is None:
            return False
        values = {
            "waiting": WarmStage.WAITING.value,
            "now": text_of(now),
            "keep": keep_seconds,
            "pool": pool,
            **_node_values(node),
        }
        waits = "#stage = :waiting, #since = :now, #keep_seconds = :keep, #pool = :pool"
        is_kept = self._table.transact(
            update_of(
                identity.warm_key(group_id, instance_id),
                update=f"SET {waits}",
                condition=f"#stage = :offered AND {_IS_NODE}",
                values={**values, "offered": WarmStage.OFFERED.value},
            ),
            update_of(
                identity.warm_list_key(group_id, instance_id),
                update=f"SET {waits}, #group_id = :group_id, #instance_id = :instance_id, "
                "#disk_bytes = :disk_bytes, #run_id = :run_id, #number = :number, #rank = :rank",
                condition="",
                values={
                    **values,
                    "group_id": group_id,
                    "instance_id": instance_id,
                    "disk_bytes": held.disk_bytes,
                    "rank": node.rank,
                },
            ),
        )
        if is_kept:
            return True
        held = self.find_warm(group_id, instance_id)
        if held is None:
            return False
        return held.stage is WarmStage.WAITING or held.node != node

    def find_warm(self, group_id: str, instance_id: str) -> WarmInstance | None:
        """Return what is known of a warm instance, or None."""
        item = self._table.get(identity.warm_key(group_id, instance_id))
        return None if item is None else read_warm(item)

    def list_warm(self, group_id: str) -> list[WarmInstance]:
        """Return the instances of a group that have waited and have not left."""
        found = self._warm_of(group_id, filtered="#stage <> :left", left=WarmStage.LEFT.value)
        return [warm for warm in found if warm.stage is not WarmStage.LEFT]

    def list_all_warm(self, group_id: str) -> list[WarmInstance]:
        """Return all instances of a group that have ever waited."""
        return self._warm_of(group_id)

    def _warm_of(self, group_id: str, *, filtered: str = "", **values: str) -> list[WarmInstance]:
        pages = self._table.pages(
            ConsistentRead=True,
            **expressions(
                key="#pk = :pk",
                filtered=filtered,
                values={"pk": identity.warm_list_key(group_id, "")["pk"], **values},
            ),
        )
        return [read_warm(item) for page in pages for item in page]

    def claim_warm(self, warm: WarmInstance, run_id: str, number: int, *, now: datetime) -> Attempt:
        """Give a waiting instance to an open attempt, both or neither; return the attempt.

        The instance's own item names its node: events about it are those of the attempt from here.
        """
        node = NodeId(run_id, number, 0)
        old = _node_values(warm.node)
        claimed: dict[str, Any] = {
            "update": "SET #stage = :claimed, #run_id = :new_run_id, #number = :new_number, "
            "#rank = :rank, #waited_seconds = :waited REMOVE #since",
            "condition": f"#stage = :waiting AND {_IS_NODE}",
            "values": {
                "claimed": WarmStage.CLAIMED.value,
                "waiting": WarmStage.WAITING.value,
                "new_run_id": run_id,
                "new_number": number,
                "rank": 0,
                "waited": round(waited(warm, now=now).total_seconds()),
                **old,
            },
        }
        self._transact_of_live_run(
            run_id,
            number,
            *launch_of(run_id, number, instances=[KeptNode(warm.instance_id, warm.pool)], now=now),
            put_of(owner_of(node, warm.instance_id), condition=_IS_NODE, values=old),
            update_of(identity.warm_key(warm.group_id, warm.instance_id), **claimed),
            update_of(identity.warm_list_key(warm.group_id, warm.instance_id), **claimed),
            pool=warm.pool,
        )
        return self._attempt_of_live_run(run_id, number)

    def leave_warm(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        """Record that an instance without an attempt ends, so that nothing claims it any more."""
        held = self.withdraw_offer(group_id, instance_id, node=node, now=now)
        if held is not None and held.stage is WarmStage.LEFT:
            self._mark_left(
                identity.warm_list_key(group_id, instance_id), node, held.left_at or now
            )
        return held

    def withdraw_offer(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        """Record that an instance leaves in its own item only, the one that its agent may write."""
        item = self._mark_left(identity.warm_key(group_id, instance_id), node, now)
        return self.find_warm(group_id, instance_id) if item is None else read_warm(item)

    def _mark_left(self, key: Mapping[str, str], node: NodeId, now: datetime) -> Item | None:
        return self._table.update(
            key,
            update="SET #stage = :left, #left_at = if_not_exists(#left_at, :now)",
            condition=f"#stage <> :claimed AND {_IS_NODE}",
            values={
                "left": WarmStage.LEFT.value,
                "claimed": WarmStage.CLAIMED.value,
                "now": text_of(now),
                **_node_values(node),
            },
        )


def _node_values(node: NodeId) -> Item:
    return {"run_id": node.run_id, "number": node.attempt}
