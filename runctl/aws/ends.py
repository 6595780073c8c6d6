"""The end of what an execution moves, a run or a group: the first one counts."""

from collections.abc import Mapping
from datetime import datetime

from runctl.aws.attributes import Item, text_of
from runctl.aws.table import Table
from runctl.model.outcome import RunStatus


def set_end(
    table: Table,
    key: Mapping[str, str],
    *,
    status: RunStatus,
    reason: str,
    now: datetime,
    execution_arn: str | None,
) -> Item | None:
    """Set the end of an item unless it has one; return the changed item, None if it is as it was.

    With `execution_arn`, only while that execution has it.
    """
    condition = "attribute_exists(#pk) AND attribute_not_exists(#ended)"
    values = {"status": status.value, "reason": reason, "now": text_of(now)}
    if execution_arn is not None:
        condition += " AND #execution_arn = :arn"
        values["arn"] = execution_arn
    return table.update(
        key,
        update="SET #ended = :status, #ended_at = :now, #reason = :reason",
        condition=condition,
        values=values,
    )
