"""The ledger on one DynamoDB table: every move a conditional write, every read consistent."""

from collections.abc import Sequence
from datetime import datetime

from runctl.aws.attempt_ledger import AttemptLedger
from runctl.aws.items import text_of
from runctl.model import identity
from runctl.model.pool import Pool


class DynamoLedger(AttemptLedger):
    """Implements `runctl.control.ports.Ledger`; on the instance the agent uses the same class.

    Every move can be repeated: a refused condition is followed by a consistent read, which
    distinguishes a move that was already made from a move that must not be made.
    """

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        """Remember that a pool refused or reclaimed us; the later `until` wins."""
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
