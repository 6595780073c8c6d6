"""The groups in the ledger: their executions and their ends."""

from datetime import datetime

from runctl.aws.attributes import Item, text_of
from runctl.aws.ends import set_end
from runctl.aws.group_items import LISTED, group_item, read_group
from runctl.aws.table import expressions, put_of, update_of
from runctl.aws.warm_ledger import WarmLedger
from runctl.model import identity
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.group import Group
from runctl.model.outcome import RunStatus


class DynamoGroupLedger(WarmLedger):
    """Implements `runctl.control.ports.groups.GroupLedger` on the table of the ledger."""

    def create_group(self, group: Group) -> Group:
        """Put the group unless it exists; return what the ledger holds."""
        self._table.transact(
            self._put_group_execution(group.execution, group.group_id),
            put_of(
                {**identity.group_key(group.group_id), **group_item(group)},
                condition="attribute_not_exists(#pk)",
            ),
        )
        held = self.find_group(group.group_id)
        if held is None:
            owner = self.find_group_of_execution(group.execution)
            raise RequestError(f"the name {group.execution!r} belongs to the group {owner}")
        return held

    def find_group(self, group_id: str) -> Group | None:
        """Return the group, or None."""
        item = self._table.get(identity.group_key(group_id))
        return None if item is None else read_group(item)

    def find_group_of_execution(self, name: str) -> str | None:
        """Return the group_id of an execution, or None for one that no group has."""
        item = self._table.get(identity.group_execution_key(name))
        return None if item is None else str(item["group_id"])

    def list_groups(self, *, limit: int = 100) -> list[Group]:
        """Return the newest groups first; an index is always eventually consistent."""
        pages = self._table.pages(
            IndexName="runs",
            ScanIndexForward=False,
            Limit=limit,
            **expressions(key="#listed = :group", values={"group": LISTED}),
        )
        groups: list[Group] = []
        for page in pages:
            groups += [read_group(item) for item in page]
            if len(groups) >= limit:
                break
        return groups[:limit]

    def list_unsettled_groups(self) -> list[str]:
        """Return the ids of all groups that are not settled; eventually consistent."""
        pages = self._table.pages(
            IndexName="unsettled",
            **expressions(key="#unsettled = :group", values={"group": LISTED}),
        )
        return [str(item["run_id"]) for page in pages for item in page]

    def resume_group(self, group_id: str, *, execution: str, execution_arn: str) -> Group:
        """Move an ended group to a new execution and clear its end; idempotent per execution."""
        self._table.transact(
            self._put_group_execution(execution, group_id),
            update_of(
                identity.group_key(group_id),
                update="SET #execution = :execution, #execution_arn = :arn, #unsettled = :group "
                "REMOVE #ended, #ended_at, #reason, #stop_requested",
                condition="attribute_exists(#ended) AND #execution_arn <> :arn",
                values={"execution": execution, "arn": execution_arn, "group": LISTED},
            ),
        )
        group = self._group(group_id)
        if group.execution_arn != execution_arn:
            raise RequestError(
                f"{group_id} belongs to the execution {group.execution}; stop it or wait for its "
                "end"
            )
        return group

    def request_stop(self, group_id: str) -> Group:
        """Record that no further member is to be started."""
        item = self._table.update(
            identity.group_key(group_id),
            update="SET #stop_requested = :yes",
            condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
            values={"yes": True},
        )
        return self._group(group_id) if item is None else read_group(item)

    def end_group(
        self,
        group_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Group:
        """Set the group's end unless it has one; return what the ledger holds."""
        item = set_end(
            self._table,
            identity.group_key(group_id),
            status=status,
            reason=reason,
            now=now,
            execution_arn=execution_arn,
        )
        return self._group(group_id) if item is None else read_group(item)

    def record_settled(self, group_id: str, *, end: datetime) -> None:
        """Record that nothing of the group is left to clean up, if that is still its end."""
        self._table.update(
            identity.group_key(group_id),
            update="REMOVE #unsettled",
            condition="#ended_at = :end",
            values={"end": text_of(end)},
        )

    def _group(self, group_id: str) -> Group:
        group = self.find_group(group_id)
        if group is None:
            raise NotFoundError(f"there is no group {group_id}")
        return group

    def _put_group_execution(self, name: str, group_id: str) -> Item:
        return put_of(
            {**identity.group_execution_key(name), "group_id": group_id},
            condition="attribute_not_exists(#pk) OR #group_id = :group_id",
            values={"group_id": group_id},
        )
