"""The block device mappings of a launch: checked as EC2 does, and merged with the template's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runctl.local.core.protocol import ApiError

# The size of the local cloud's images.
IMAGE_GIB = 8
# The limits of gp3 volumes, according to the EC2 API reference and the EBS user guide.
_LIMITS: Mapping[str, tuple[int, int]] = {
    "VolumeSize": (1, 65_536),
    "Throughput": (125, 2000),
    "Iops": (3000, 80_000),
}
_BASE_IOPS = 3000
_BASE_THROUGHPUT = 125


def merged(template: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return a launch's settings: an override's mapping replaces the template's of its device."""
    given = override.get("BlockDeviceMappings") or []
    mapped = {item.get("DeviceName", ""): item for item in given}
    kept = [
        item
        for item in template.get("BlockDeviceMappings") or []
        if item.get("DeviceName", "") not in mapped
    ]
    return {**template, **override, "BlockDeviceMappings": [*given, *kept]}


def refusal(override: Mapping[str, Any]) -> ApiError | None:
    """Return the error with which EC2 refuses the volumes of an override, or None."""
    for item in override.get("BlockDeviceMappings") or []:
        if not str(item.get("DeviceName", "")).startswith(("/dev/", "xvd")):
            return ApiError(
                "InvalidBlockDeviceMapping", f"Invalid device name {item.get('DeviceName')!r}"
            )
        if (ebs := item.get("Ebs")) is not None and (problem := _refusal_of_volume(ebs)):
            return problem
    return None


def _refusal_of_volume(ebs: Mapping[str, Any]) -> ApiError | None:
    for name, (least, most) in _LIMITS.items():
        if name in ebs and not least <= int(ebs[name]) <= most:
            return ApiError("InvalidParameterValue", f"{name} must be from {least} to {most}.")
    if ebs.get("VolumeType", "gp3") != "gp3" and "Throughput" in ebs:
        return ApiError("InvalidParameterCombination", "Throughput is for volumes of type gp3.")
    size = int(ebs.get("VolumeSize", IMAGE_GIB))
    if size < IMAGE_GIB:
        return ApiError(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than the snapshot, expect size>= {IMAGE_GIB}GB",
        )
    iops, throughput = int(ebs.get("Iops", _BASE_IOPS)), int(ebs.get("Throughput", 0))
    if iops > max(_BASE_IOPS, size * 500):
        return ApiError(
            "InvalidParameterCombination", f"The ratio of {iops} IOPS to {size} GiB exceeds 500."
        )
    if throughput > _BASE_THROUGHPUT and throughput > iops * 0.25:
        return ApiError(
            "InvalidParameterCombination",
            f"The ratio of {throughput} MiB/s to {iops} IOPS exceeds 0.25.",
        )
    return None


def scale(template: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    """Return how much larger the root volume of a launch is than that of its template."""
    before, after = _root_gib(template), _root_gib(data)
    return after / before if before else 1.0


def _root_gib(data: Mapping[str, Any]) -> int:
    mappings = data.get("BlockDeviceMappings") or [{}]
    return int((mappings[0].get("Ebs") or {}).get("VolumeSize", IMAGE_GIB))
