"""A fleet, and how EC2 describes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runctl.local.core.instance import Instance
from runctl.local.ec2.fleet_request import template_ids


@dataclass
class Fleet:
    """A fleet that was created."""

    fleet_id: str
    request: dict[str, Any]
    tags: dict[str, str]
    created_at: datetime
    instances: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    deleted: bool = False

    def instance_ids(self) -> list[str]:
        """List the instances it launched."""
        return [instance_id for group in self.instances for instance_id in group["InstanceIds"]]


def outcome_of(fleet: Fleet) -> dict[str, Any]:
    """Return the response of CreateFleet, as a copy that callers may keep."""
    copied: dict[str, Any] = json.loads(
        json.dumps(
            {"FleetId": fleet.fleet_id, "Errors": fleet.errors, "Instances": fleet.instances}
        )
    )
    return copied


def _configs(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configurations with the templates' ids, as EC2 does for names as well."""
    ids = template_ids(request)
    return [
        {
            "LaunchTemplateSpecification": {
                "LaunchTemplateId": template_id,
                "Version": config.get("LaunchTemplateSpecification", {}).get("Version"),
            },
            "Overrides": config.get("Overrides", []),
        }
        for template_id, config in zip(ids, request["LaunchTemplateConfigs"], strict=True)
    ]


def description_of(fleet: Fleet, instances: Sequence[Instance]) -> dict[str, Any]:
    """Return a fleet as DescribeFleets shows it; `instances` are those of the local cloud."""
    target = fleet.request["TargetCapacitySpecification"]
    alive = sum(instance.fleet_id == fleet.fleet_id and instance.is_alive for instance in instances)
    return {
        "FleetId": fleet.fleet_id,
        "FleetState": "deleted_terminating" if fleet.deleted else "active",
        "ClientToken": fleet.request.get("ClientToken"),
        "CreateTime": fleet.created_at,
        "Type": "instant",
        # An instant fleet is fulfilled with whatever it got.
        "ActivityStatus": "fulfilled",
        "FulfilledCapacity": float(alive),
        "LaunchTemplateConfigs": _configs(fleet.request),
        "TargetCapacitySpecification": {
            key: value for key, value in target.items() if key != "TargetCapacityUnitType"
        },
        "Tags": [{"Key": key, "Value": value} for key, value in fleet.tags.items()],
        "Errors": fleet.errors,
        "Instances": fleet.instances,
    }
