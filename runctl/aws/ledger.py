"""The ledger on one DynamoDB table: every move a conditional write, every read consistent."""

from collections.abc import Sequence
from datetime import datetime

from runctl.aws.attributes import text_of
from runctl.aws.items import SUMMARY_ATTRIBUTES, SUMMARY_VERSION, read_run, summary_values
from runctl.aws.node_ledger import NodeLedger
from runctl.model import identity
from runctl.model.pool import Pool
from runctl.model.run import summarize


class DynamoLedger(NodeLedger):
    """Implements `runctl.control.ports.Ledger`; on the instance the agent uses the same class.

    Every move can be repeated: a refused condition is followed by a consistent read, which
    distinguishes a move that was already made from a move that must not be made.
    """

    def refresh_summary(self, run_id: str) -> bool:
        """Rewrite the summary of the attempts if it differs; return whether it did.

        It differs if an earlier version created the run or changed an attempt. The attempts are
        read after the summary, which must be unchanged at the write. If it is not, another function
        has just updated it, and the next reconciliation compares again.
        """
        item = self._table.get(identity.run_key(run_id))
        # A newer version maintains its own form.
        if item is None or item.get("summary_version", 0) > SUMMARY_VERSION:
            return False
        found = summarize(self.attempts(run_id))
        if read_run(item).summary == found:
            return False
        values = {name: value for name, value in summary_values(found).items() if value is not None}
        absent = [f"#{name}" for name in SUMMARY_ATTRIBUTES if name not in values]
        conditions = {
            name: f"#{name} = :old_{name}" if name in item else f"attribute_not_exists(#{name})"
            for name in SUMMARY_ATTRIBUTES
        }
        before = {f"old_{name}": item[name] for name in SUMMARY_ATTRIBUTES if name in item}
        moves = ", ".join(f"#{name} = :{name}" for name in values)
        written = self._table.update(
            identity.run_key(run_id),
            update=f"SET {moves}" + (f" REMOVE {', '.join(absent)}" if absent else ""),
            condition=" AND ".join(("attribute_exists(#pk)", *conditions.values())),
            values={**values, **before},
        )
        return written is not None

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        """Record that a pool refused or reclaimed a machine; the later `until` wins."""
        self._table.update(
            identity.pool_key(str(pool)),
            update="SET #until = :until",
            condition="attribute_not_exists(#until) OR #until < :until",
            values={"until": text_of(until)},
        )

    def cooling_pools(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, datetime]:
        """Return those of `pools` that are cooling down, each with its end."""
        keys = {identity.pool_key(str(pool))["pk"]: pool for pool in pools}
        found: dict[Pool, datetime] = {}
        for item in self._table.get_many([identity.pool_key(str(pool)) for pool in keys.values()]):
            until = datetime.fromisoformat(item["until"])
            if until > now:
                found[keys[item["pk"]]] = until
        return found
