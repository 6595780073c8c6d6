"""The EBS volumes of instances: created at launch, deleted or kept when their instance ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from runctl.local.core import records
from runctl.local.core.instance import Instance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.block_devices import IMAGE_GIB
from runctl.local.ec2.filters import check_filters, filters_of, matches, tags_match


@dataclass(frozen=True)
class Volume:
    """A volume; whether it exists, and is attached, follows from its instance's state."""

    instance: Instance
    device: str
    size_gib: int
    kind: str
    encrypted: bool
    goes_with_instance: bool
    tags: Mapping[str, str]
    volume_id: str = field(default_factory=lambda: f"vol-{secrets.token_hex(9)[:17]}")
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def is_attached(self) -> bool:
        """Whether it is attached; a stopped instance keeps its volumes."""
        return self.instance.state != "terminated"

    @property
    def state(self) -> str:
        """Its state, as EC2 names it."""
        return "in-use" if self.is_attached else "available"


_FILTERS: Mapping[str, Callable[[Volume], str]] = {
    "attachment.instance-id": lambda volume: (
        volume.instance.instance_id if volume.is_attached else ""
    ),
    "availability-zone": lambda volume: volume.instance.zone,
    "size": lambda volume: str(volume.size_gib),
    "status": lambda volume: volume.state,
    "volume-id": lambda volume: volume.volume_id,
    "volume-type": lambda volume: volume.kind,
}


class Volumes:
    """Every volume that an instance was launched with; there are no others."""

    def __init__(self) -> None:
        self._all: dict[str, Volume] = {}

    def launch(self, instance: Instance, data: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Create an instance's volumes: those that its launch maps, or only the image's root."""
        mappings = [item for item in data.get("BlockDeviceMappings") or [] if "Ebs" in item]
        for order, mapping in enumerate(mappings or [{"DeviceName": "/dev/sda1", "Ebs": {}}]):
            ebs = mapping["Ebs"]
            volume = Volume(
                instance=instance,
                device=mapping.get("DeviceName", ""),
                size_gib=int(ebs.get("VolumeSize", IMAGE_GIB)),
                kind=ebs.get("VolumeType", "gp2"),
                encrypted=bool(ebs.get("Encrypted", False)),
                # The default: the root is deleted, data volumes are kept.
                goes_with_instance=bool(ebs.get("DeleteOnTermination", order == 0)),
                tags=dict(tags),
            )
            self._all[volume.volume_id] = volume
            records.set_tags(volume.volume_id, dict(tags))

    def all(self) -> list[Volume]:
        """List the volumes that exist."""
        gone = [
            volume.volume_id
            for volume in self._all.values()
            if not volume.is_attached and volume.goes_with_instance
        ]
        for volume_id in gone:
            del self._all[volume_id]
        return list(self._all.values())

    def describe(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Describe the volumes that a DescribeVolumes request selects."""
        if "VolumeIds" in request and "MaxResults" in request:
            raise ApiError(
                "InvalidParameterCombination",
                "The parameter volumeSet cannot be used with the parameter maxResults",
            )
        found = (
            [self.get(volume_id) for volume_id in request["VolumeIds"]]
            if request.get("VolumeIds")
            else (self.all())
        )
        filters = filters_of(request)
        check_filters(filters, known=_FILTERS, tags=True)
        for name, values in filters.items():
            if name in _FILTERS:
                found = [volume for volume in found if matches(_FILTERS[name](volume), values)]
            else:
                found = [volume for volume in found if tags_match(volume.tags, name, values)]
        return [_described(volume) for volume in found]

    def delete(self, volume_id: str) -> None:
        """Delete a volume, or refuse as EC2 does."""
        volume = self.get(volume_id)
        if volume.is_attached:
            raise ApiError(
                "VolumeInUse",
                f"Volume {volume_id} is currently attached to {volume.instance.instance_id}",
            )
        del self._all[volume_id]

    def get(self, volume_id: str) -> Volume:
        """Find a volume, or refuse as EC2 does."""
        for volume in self.all():
            if volume.volume_id == volume_id:
                return volume
        raise ApiError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")


def _described(volume: Volume) -> dict[str, Any]:
    """Describe a volume as EC2 does."""
    attachment = {
        "VolumeId": volume.volume_id,
        "InstanceId": volume.instance.instance_id,
        "Device": volume.device,
        "State": "attached",
        "AttachTime": volume.created_at,
        "DeleteOnTermination": volume.goes_with_instance,
    }
    return {
        "VolumeId": volume.volume_id,
        "Size": volume.size_gib,
        "VolumeType": volume.kind,
        "Encrypted": volume.encrypted,
        "AvailabilityZone": volume.instance.zone,
        "State": volume.state,
        "CreateTime": volume.created_at,
        "Attachments": [attachment] if volume.is_attached else [],
        "Tags": [{"Key": key, "Value": value} for key, value in volume.tags.items()],
    }
