"""The groups of runs and their warm instances in memory."""

from dataclasses import replace
from datetime import datetime, timedelta

from runctl.model.errors import NotFoundError, RequestError
from runctl.model.group import Group, WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.warm import waited
from tests.control.memory_ledger import MemoryLedger


class MemoryGroups:
    """Behaves like DynamoGroupLedger, on the runs of a MemoryLedger."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.groups: dict[str, Group] = {}
        self.executions: dict[str, str] = {}
        self.warm: dict[tuple[str, str], WarmInstance] = {}
        self.listed: dict[tuple[str, str], WarmInstance] = {}

    def create_group(self, group: Group) -> Group:
        owner = self.executions.get(group.execution, group.group_id)
        if owner != group.group_id:
            raise RequestError(f"the name {group.execution!r} belongs to the group {owner}")
        if group.group_id not in self.groups:
            self.executions[group.execution] = group.group_id
            self.groups[group.group_id] = group
        return self.groups[group.group_id]

    def find_group(self, group_id: str) -> Group | None:
        return self.groups.get(group_id)

    def find_group_of_execution(self, name: str) -> str | None:
        return self.executions.get(name)

    def list_groups(self, *, limit: int = 100) -> list[Group]:
        newest = sorted(self.groups.values(), key=lambda group: group.started_at, reverse=True)
        return newest[:limit]

    def list_unsettled_groups(self) -> list[str]:
        return [group.group_id for group in self.groups.values() if not group.is_settled]

    def resume_group(self, group_id: str, *, execution: str, execution_arn: str) -> Group:
        group = self._group(group_id)
        if group.execution_arn == execution_arn:
            return group
        if group.ended is None or self.executions.get(execution, group_id) != group_id:
            raise RequestError(f"{group_id} belongs to the execution {group.execution}")
        self.executions[execution] = group_id
        self.groups[group_id] = replace(
            group,
            execution=execution,
            execution_arn=execution_arn,
            ended=None,
            ended_at=None,
            reason="",
            stop_requested=False,
            is_settled=False,
        )
        return self.groups[group_id]

    def request_stop(self, group_id: str) -> Group:
        group = self._group(group_id)
        if group.ended is None:
            self.groups[group_id] = replace(group, stop_requested=True)
        return self.groups[group_id]

    def end_group(
        self,
        group_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Group:
        group = self._group(group_id)
        if group.ended is None and execution_arn in {None, group.execution_arn}:
            self.groups[group_id] = replace(group, ended=status, ended_at=now, reason=reason)
        return self.groups[group_id]

    def record_settled(self, group_id: str, *, end: datetime) -> None:
        group = self.groups.get(group_id)
        if group is not None and group.ended_at == end:
            self.groups[group_id] = replace(group, is_settled=True)

    def offer_warm(self, offer: WarmInstance) -> WarmInstance:
        held = self.find_warm(offer.group_id, offer.instance_id)
        if held is None or (held.stage is WarmStage.CLAIMED and held.node == offer.node):
            self.warm[offer.group_id, offer.instance_id] = replace(
                offer,
                stage=WarmStage.OFFERED,
                waited=timedelta(0) if held is None else held.waited,
            )
        return self.warm[offer.group_id, offer.instance_id]

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
        held = self.find_warm(group_id, instance_id)
        if held is None:
            return False
        if held.stage is WarmStage.OFFERED and held.node == node:
            self.warm[group_id, instance_id] = self.listed[group_id, instance_id] = replace(
                held, stage=WarmStage.WAITING, since=now, keep_seconds=keep_seconds, pool=pool
            )
            return True
        return held.stage is WarmStage.WAITING or held.node != node

    def find_warm(self, group_id: str, instance_id: str) -> WarmInstance | None:
        return self.warm.get((group_id, instance_id))

    def list_warm(self, group_id: str) -> list[WarmInstance]:
        listed = self.list_all_warm(group_id)
        return [warm for warm in listed if warm.stage is not WarmStage.LEFT]

    def list_all_warm(self, group_id: str) -> list[WarmInstance]:
        return [warm for warm in self.listed.values() if warm.group_id == group_id]

    def claim_warm(self, warm: WarmInstance, run_id: str, number: int, *, now: datetime) -> Attempt:
        self._ledger.check_goes_on(run_id)
        key = (warm.group_id, warm.instance_id)
        held = self.warm.get(key)
        attempt = self._ledger.find_attempt(run_id, number)
        if (
            held is not None
            and (held.stage, held.node) == (WarmStage.WAITING, warm.node)
            and attempt is not None
            and attempt.stage is AttemptStage.LAUNCHING
            and self._ledger.find_instance(warm.instance_id) == warm.node
        ):
            self.warm[key] = self.listed[key] = replace(
                held,
                stage=WarmStage.CLAIMED,
                node=NodeId(run_id, number, 0),
                since=None,
                waited=waited(held, now=now),
            )
            return self._ledger.record_launch(
                run_id, number, instance_ids=[warm.instance_id], pool=warm.pool, now=now
            )
        if attempt is None:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")
        return attempt

    def leave_warm(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        held = self.withdraw_offer(group_id, instance_id, node=node, now=now)
        if (
            held is not None
            and held.stage is WarmStage.LEFT
            and (group_id, instance_id) in self.listed
        ):
            self.listed[group_id, instance_id] = held
        return held

    def withdraw_offer(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        held = self.warm.get((group_id, instance_id))
        if held is not None and held.stage is not WarmStage.CLAIMED and held.node == node:
            self.warm[group_id, instance_id] = replace(
                held, stage=WarmStage.LEFT, left_at=held.left_at or now
            )
        return self.warm.get((group_id, instance_id))

    def _group(self, group_id: str) -> Group:
        if group_id not in self.groups:
            raise NotFoundError(f"there is no group {group_id}")
        return self.groups[group_id]
