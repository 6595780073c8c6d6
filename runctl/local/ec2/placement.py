"""Placement groups and network adapters: which launches EC2 refuses, and who fits into a group.

DescribeInstanceTypes says what a type supports. EC2's message about placement groups is that of
dstack's issue 2872; that about adapters is an assumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runctl.local.core import catalog, records
from runctl.local.core.allocation import QuotaCheck, Shortage
from runctl.local.core.instance import Instance
from runctl.local.core.market import MESSAGES, Pool
from runctl.local.core.protocol import ApiError

_NO_ROOM = "InsufficientInstanceCapacity"


def group_of(data: Mapping[str, Any]) -> str:
    """Return the name of the placement group of a launch, empty without one."""
    return str((data.get("Placement") or {}).get("GroupName") or "")


def refusal(data: Mapping[str, Any], instance_type: str) -> ApiError | None:
    """Return the error with which EC2 refuses a launch with these settings, or None."""
    interfaces = data.get("NetworkInterfaces") or []
    adapters = sum(interface.get("InterfaceType") == "efa" for interface in interfaces)
    if adapters and not catalog.has_efa(instance_type):
        return ApiError(
            "AttachmentLimitExceeded",
            f"EFA interfaces count {adapters} exceeds allowed limit for {instance_type}.",
        )
    name = group_of(data)
    if not name:
        return None
    strategy = records.placement_strategy(name)
    if strategy is None:
        return ApiError(
            "InvalidPlacementGroup.Unknown", f"The placement group '{name}' is unknown."
        )
    if strategy == "cluster" and not catalog.can_cluster(instance_type):
        return ApiError(
            "InvalidParameterCombination",
            f"Cluster placement groups are not supported by the '{instance_type}' instance type. "
            "Specify a supported instance type or change the placement group strategy, and try "
            "again.",
        )
    return None


def check_room(
    groups: Mapping[Pool, str], instances: Iterable[Instance], *, room: int, quotas: QuotaCheck
) -> QuotaCheck:
    """Return a check of the quotas, and that each placement group has at most `room` instances.

    `groups` are those of the pools of a request.
    """
    placed = [instance.placement_group for instance in instances if instance.is_alive]

    def check(pool: Pool, granted: Sequence[Pool]) -> Shortage | None:
        name = groups.get(pool, "")
        taken = placed.count(name) + sum(groups.get(other, "") == name for other in granted)
        if name and taken >= room:
            return Shortage(_NO_ROOM, MESSAGES[_NO_ROOM])
        return quotas(pool, granted)

    return check
