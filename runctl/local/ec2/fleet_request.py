"""A CreateFleet request: checked, and resolved against launch templates and subnets."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from runctl.local.core import catalog, records
from runctl.local.core.allocation import Offer
from runctl.local.core.market import Lifecycle, Pool
from runctl.local.core.protocol import ApiError
from runctl.local.core.records import LaunchTemplate, Profile, Subnet
from runctl.local.ec2 import block_devices, placement
from runctl.local.ec2.applied import check_template
from runctl.local.ec2.tag_rules import check_shown_keys, check_tags

_INSTANT_ONLY = "The local cloud launches fleets of type instant only."
_MAX_LEAST = 1000
_MAX_USER_DATA_BYTES = 16 * 1024

# The fields by which a template or an override names a resource that exists.
_NAMED_BY: Mapping[str, frozenset[str]] = {
    "image": frozenset({"ImageId"}),
    "subnet": frozenset({"SubnetId", "NetworkInterfaces"}),
    "security-group": frozenset({"NetworkInterfaces"}),
}


@dataclass(frozen=True)
class Candidate:
    """An override of the request, with everything that it resolves to."""

    offer: Offer
    template: LaunchTemplate
    override: dict[str, Any]
    subnet: Subnet
    image: str
    image_parameter: str | None
    profile: Profile | None

    @property
    def placement_group(self) -> str:
        """The name of the placement group, empty without one."""
        return placement.group_of({**self.template.data, **self.override})

    @property
    def overridden(self) -> list[str]:
        """The types of the resources that the request names in place of the template."""
        return [kind for kind, names in _NAMED_BY.items() if names & self.override.keys()]


def candidates_of(request: dict[str, Any]) -> Iterator[Candidate]:
    """Resolve every override of a request, in order."""
    target = request["TargetCapacitySpecification"]
    lifecycle = cast("Lifecycle", target["DefaultTargetCapacityType"])
    order = itertools.count()
    for config in request["LaunchTemplateConfigs"]:
        template = records.find_launch_template(config.get("LaunchTemplateSpecification", {}))
        for override in config.get("Overrides") or [{}]:
            merged = {**template.data, **override}
            check_template(template.template_id, template.data)
            subnet = _placed(merged)
            instance_type = merged.get("InstanceType")
            if not instance_type:
                raise ApiError("InvalidFleetConfiguration", "An override has no InstanceType.")
            image, parameter = _image(merged.get("ImageId", ""))
            offer = Offer(
                pool=Pool(instance_type, subnet.zone, lifecycle),
                order=next(order),
                priority=override.get("Priority"),
                max_price=_max_price(override, template, lifecycle),
                weight=override.get("WeightedCapacity", 1.0),
            )
            profile = merged.get("IamInstanceProfile")
            yield Candidate(
                offer=offer,
                template=template,
                override=override,
                subnet=subnet,
                image=image,
                image_parameter=parameter,
                profile=records.find_profile(profile) if profile else None,
            )


# botocore's documentation of CreateFleet: what an instant fleet can tag.
_TAGGED_AT_LAUNCH = {"fleet", "instance", "volume", "network-interface"}
_STRATEGIES = {
    "SpotOptions": (
        "lowest-price",
        "diversified",
        "capacity-optimized",
        "capacity-optimized-prioritized",
        "price-capacity-optimized",
    ),
    "OnDemandOptions": ("lowest-price", "prioritized"),
}


def is_spot(request: dict[str, Any]) -> bool:
    """Whether the fleet requests Spot capacity."""
    return bool(request["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "spot")


def check(request: dict[str, Any]) -> None:
    """Refuse what EC2 refuses, and what the local cloud does not have."""
    target = request["TargetCapacitySpecification"]
    if request.get("Type", "maintain") != "instant":
        raise ApiError("UnsupportedOperation", _INSTANT_ONLY)
    if "DefaultTargetCapacityType" not in target:
        raise ApiError("MissingParameter", "The local cloud needs DefaultTargetCapacityType.")
    split = [target.get("SpotTargetCapacity"), target.get("OnDemandTargetCapacity")]
    whole = [None, 0, target["TotalTargetCapacity"]]
    if any(name not in whole for name in split):
        raise ApiError("UnsupportedOperation", "The local cloud has no fleets of both markets.")
    if target["DefaultTargetCapacityType"] not in {"spot", "on-demand"}:
        raise ApiError("InvalidParameterValue", "DefaultTargetCapacityType is spot or on-demand.")
    if target["TotalTargetCapacity"] < 1:
        raise ApiError("InvalidParameterValue", "TotalTargetCapacity is below 1.")
    _check_strategies(request)
    for spec in request.get("TagSpecifications", []):
        if spec.get("ResourceType") not in _TAGGED_AT_LAUNCH:
            raise ApiError("InvalidParameterValue", "Tags are for the fleet or what it launches.")
        check_tags(spec.get("Tags", []))
    _check_one_subnet_a_zone(request)


def _check_strategies(request: dict[str, Any]) -> None:
    target = request["TargetCapacitySpecification"]
    for name, strategies in _STRATEGIES.items():
        options = request.get(name, {})
        if options.get("AllocationStrategy", strategies[0]) not in strategies:
            raise ApiError(
                "InvalidParameterValue",
                f"{name}: the AllocationStrategy is one of {', '.join(strategies)}.",
            )
        single = options.get("SingleInstanceType") or options.get("SingleAvailabilityZone")
        if "MinTargetCapacity" in options and not single:
            raise ApiError(
                "InvalidParameterCombination",
                f"{name}: MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone.",
            )
        least = options.get("MinTargetCapacity", 0)
        if least > min(target["TotalTargetCapacity"], _MAX_LEAST):
            raise ApiError(
                "InvalidParameterValue", f"MinTargetCapacity exceeds the target or {_MAX_LEAST}."
            )
        if "MaintenanceStrategies" in options:
            raise ApiError(
                "InvalidParameterCombination",
                "MaintenanceStrategies is for fleets of type maintain.",
            )


def _check_one_subnet_a_zone(request: dict[str, Any]) -> None:
    seen: dict[str, str] = {}
    for config in request["LaunchTemplateConfigs"]:
        for override in config.get("Overrides", []):
            if subnet_id := override.get("SubnetId"):
                zone = records.find_subnet(subnet_id).zone
                if seen.setdefault(zone, subnet_id) != subnet_id:
                    raise ApiError("InvalidFleetConfiguration", f"Two subnets of one zone, {zone}.")


def _placed(merged: dict[str, Any]) -> Subnet:
    zone = merged.get("AvailabilityZone")
    interfaces = merged.get("NetworkInterfaces") or [{}]
    subnet_id = merged.get("SubnetId") or interfaces[0].get("SubnetId")
    if subnet_id:
        subnet = records.find_subnet(subnet_id)
        if zone and zone != subnet.zone:
            raise ApiError("InvalidParameterCombination", f"{subnet_id} is not in {zone}.")
        return subnet
    zone = zone or (merged.get("Placement") or {}).get("AvailabilityZone")
    return records.find_default_subnet(zone or records.zones()[0])


def _max_price(
    override: dict[str, Any], template: LaunchTemplate, lifecycle: Lifecycle
) -> float | None:
    if lifecycle != "spot":
        return None
    options = (template.data.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}
    price = override.get("MaxPrice") or options.get("MaxPrice")
    return float(price) if price else None


def _image(image_id: str) -> tuple[str, str | None]:
    if not image_id:
        raise ApiError("InvalidFleetConfiguration", "Neither template nor override has an ImageId.")
    if image_id.startswith("resolve:ssm:"):
        name = image_id.removeprefix("resolve:ssm:")
        return catalog.resolve_image(name), name
    return image_id, None


def security_groups(data: dict[str, Any]) -> list[str]:
    """List the security groups of a launch."""
    interfaces = data.get("NetworkInterfaces") or [{}]
    return list(data.get("SecurityGroupIds") or interfaces[0].get("Groups") or [])


def tags_for(request: dict[str, Any], kind: str) -> dict[str, str]:
    """Return the tags that a request gives to a kind of resource."""
    return {
        tag["Key"]: tag.get("Value", "")
        for spec in request.get("TagSpecifications", [])
        if spec.get("ResourceType") == kind
        for tag in spec.get("Tags", [])
    }


def refusal(candidate: Candidate, request: dict[str, Any]) -> ApiError | None:
    """Return the error with which EC2 refuses an override, or None."""
    pool = candidate.offer.pool
    if pool.instance_type not in catalog.existing_types():
        return ApiError(
            "InvalidFleetConfiguration",
            f"Your requested instance type ({pool.instance_type}) is not supported in your "
            f"requested Availability Zone ({pool.zone}).",
        )
    if problem := block_devices.refusal(candidate.override):
        return problem
    data = candidate.template.data
    if problem := placement.refusal({**data, **candidate.override}, pool.instance_type):
        return problem
    tags = {**template_tags(data), **tags_for(request, "instance")}
    try:
        check_tags({"Key": key, "Value": value} for key, value in tags.items())
        if shows_tags({**data, **candidate.override}):
            check_shown_keys(tags)
    except ApiError as exc:
        return exc
    return None


def shows_tags(data: dict[str, Any]) -> bool:
    """Whether a launch lets the metadata service show the instance's tags."""
    options = data.get("MetadataOptions") or {}
    return bool(options.get("InstanceMetadataTags") == "enabled")


def template_tags(data: dict[str, Any]) -> dict[str, str]:
    """Return the tags that a launch template gives to instances."""
    return tags_for(data, "instance")


def kinds_tagged_by(data: dict[str, Any]) -> list[str]:
    """List the kinds of resources that a launch template tags."""
    return [spec["ResourceType"] for spec in data.get("TagSpecifications", []) if spec.get("Tags")]


def template_ids(request: dict[str, Any]) -> list[str]:
    """List the launch templates of a request."""
    specs = (
        item.get("LaunchTemplateSpecification", {}) for item in request["LaunchTemplateConfigs"]
    )
    return [records.find_launch_template(spec).template_id for spec in specs]


def decode_user_data(text: Any) -> bytes:
    """Decode the user data, or refuse it as EC2 does."""
    if isinstance(text, dict):
        raise ApiError("InvalidParameterValue", f"The user data was never resolved: {text}")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ApiError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data") from exc
    if len(data) > _MAX_USER_DATA_BYTES:
        raise ApiError("InvalidParameterValue", "User data is limited to 16384 bytes")
    return data


def where(candidate: Candidate) -> dict[str, Any]:
    """Describe template, override and lifecycle as EC2's responses do."""
    allowed = {
        "InstanceType", "MaxPrice", "SubnetId", "AvailabilityZone", "WeightedCapacity", "Priority",
        "ImageId", "Placement",
    }  # fmt: skip
    return {
        "LaunchTemplateAndOverrides": {
            "LaunchTemplateSpecification": {
                "LaunchTemplateId": candidate.template.template_id,
                "Version": str(candidate.template.version),
            },
            "Overrides": {
                **{key: value for key, value in candidate.override.items() if key in allowed},
                "AvailabilityZone": candidate.subnet.zone,
                "InstanceType": candidate.offer.pool.instance_type,
            },
        },
        "Lifecycle": candidate.offer.pool.lifecycle,
    }


def error_of(candidate: Candidate, code: str, message: str) -> dict[str, Any]:
    """Return an entry of a fleet's errors."""
    return {**where(candidate), "ErrorCode": code, "ErrorMessage": message}
