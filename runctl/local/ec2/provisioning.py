# ruff: noqa: SLF001 - it extends ministack's CloudFormation
"""CloudFormation resources of EC2 that ministack lacks: placement groups, rules by themselves."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

Properties = dict[str, Any]
Created = tuple[str, dict[str, Any]]


def install(is_used: Callable[[str], bool]) -> None:
    """Add them, once; `is_used` returns whether a placement group has instances."""
    _create_placement_groups(is_used)
    for direction, permissions in (
        ("Ingress", "IpPermissions"),
        ("Egress", "IpPermissionsEgress"),
    ):
        _create_rules(f"AWS::EC2::SecurityGroup{direction}", permissions)


def _create_placement_groups(is_used: Callable[[str], bool]) -> None:
    def create(logical_id: str, props: Properties, stack: str) -> Created:
        name = provisioners._physical_name(stack, logical_id)
        group_id = ec2._new_placement_group_id()
        ec2._placement_groups[name] = {
            "GroupName": name,
            "GroupId": group_id,
            "State": "available",
            "Strategy": props.get("Strategy", "cluster"),
            "GroupArn": ec2._placement_group_arn(name),
            "PartitionCount": int(props.get("PartitionCount", 0)),
        }
        provisioners._ec2_apply_tags(group_id, props)
        return name, {"GroupName": name, "GroupId": group_id}

    def delete(name: str, _props: Properties) -> None:
        if is_used(name):
            raise ValueError(f"The placement group '{name}' is in use and may not be deleted.")
        if group := ec2._placement_groups.pop(name, None):
            ec2._tags.pop(group["GroupId"], None)

    provisioners._RESOURCE_HANDLERS["AWS::EC2::PlacementGroup"] = {
        "create": create,
        "delete": delete,
    }


def _create_rules(kind: str, permissions: str) -> None:
    def create(logical_id: str, props: Properties, _stack: str) -> Created:
        group = ec2._security_groups.get(props.get("GroupId", ""))
        if group is None:
            raise ValueError(
                f"{logical_id}: The security group '{props.get('GroupId')}' does not exist"
            )
        group.setdefault(permissions, []).extend(provisioners._ec2_sg_permissions([props]))
        rule_id = f"sgr-{secrets.token_hex(9)[:17]}"
        return rule_id, {"Id": rule_id}

    def delete(_rule_id: str, props: Properties) -> None:
        # The group may have been deleted before its rules, and they with it.
        group = ec2._security_groups.get(props.get("GroupId", ""), {})
        for permission in provisioners._ec2_sg_permissions([props]):
            if permission in group.get(permissions, []):
                group[permissions].remove(permission)

    def update(
        rule_id: str, old: Properties, new: Properties, stack: str, logical_id: str = ""
    ) -> Created:
        delete(rule_id, old)
        return create(logical_id, new, stack)

    provisioners._RESOURCE_HANDLERS[kind] = {
        "create": create,
        "update": update,
        "update_with_logical_id": True,
        "delete": delete,
    }
