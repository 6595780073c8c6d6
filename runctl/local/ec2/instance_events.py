"""The events of an instance: what EC2 publishes of it, and what the local cloud's journal keeps."""

from __future__ import annotations

from typing import Any

from runctl.local.core.events import EventBus
from runctl.local.core.instance import Instance
from runctl.local.core.journal import Journal


class InstanceEvents:
    """Records and publishes what happens to instances."""

    def __init__(self, journal: Journal, bus: EventBus) -> None:
        self._journal, self._bus = journal, bus

    def record(self, instance: Instance, what: str, **fields: Any) -> None:
        """Add an entry to the journal."""
        self._journal.add(
            instance_id=instance.instance_id, what=what, pool=str(instance.pool), **fields
        )

    def publish_state(self, instance: Instance) -> None:
        """Publish the state that an instance has reached."""
        self._bus.publish(
            "EC2 Instance State-change Notification",
            {"instance-id": instance.instance_id, "state": instance.state},
            resource=instance.arn,
        )

    def publish_warning(self, instance: Instance) -> None:
        """Publish the interruption warning of a Spot Instance."""
        self._bus.publish(
            "EC2 Spot Instance Interruption Warning",
            {"instance-id": instance.instance_id, "instance-action": "terminate"},
            resource=f"arn:aws:ec2:{instance.zone}:instance/{instance.instance_id}",
        )

    def publish_rebalance(self, instance: Instance) -> None:
        """Publish a rebalance recommendation."""
        self._bus.publish(
            "EC2 Instance Rebalance Recommendation",
            {"instance-id": instance.instance_id},
            resource=instance.arn,
        )
