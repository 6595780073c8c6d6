"""CreateFleet of type instant, and what else concerns fleets."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, cast

from runctl.local import catalog, store
from runctl.local.instances import Instance, Instances, ended_by_user, new_instance_id
from runctl.local.market import Allocation, Lifecycle, Offer, Pool, allocate
from runctl.local.store import LaunchTemplate, Profile, Subnet
from runctl.local.wire import ApiError

_INSTANT_ONLY = "The local cloud launches fleets of type instant only."
_MOST_USER_DATA = 16 * 1024


class Authorize(Protocol):
    """Checks that the caller may do what a call entails; raises UnauthorizedOperation."""

    def __call__(self, action: str, *, on_launch: bool = False, **facts: list[str]) -> None:
        """Raise a refusal unless the call with these facts is allowed."""


@dataclass(frozen=True)
class _Candidate:
    """One override of the request with everything that it resolves to."""

    offer: Offer
    template: LaunchTemplate
    override: dict[str, Any]
    subnet: Subnet
    image: str
    image_parameter: str | None
    profile: Profile | None


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
        return [one for group in self.instances for one in group["InstanceIds"]]


class Fleets:
    """Every fleet since the local cloud began."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._all: dict[str, Fleet] = {}
        self._by_token: dict[tuple[str, str], Fleet] = {}
        self._lock = threading.Lock()
        self._addresses = itertools.count(10)

    def create(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Launch an instant fleet, or answer again what the same token was answered before."""
        _check(request)
        with self._lock:
            return self._create(request, authorize)

    def _create(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        token = request.get("ClientToken")
        tags = _tags(request, "fleet")
        authorize(
            "CreateFleet",
            template=_template_ids(request),
            tagged=["fleet"] if tags else [],
            tags=[f"{key}={value}" for key, value in tags.items()],
        )
        if token and (known := self._by_token.get((store.account_id(), token))):
            if known.request != request:
                raise ApiError(
                    "IdempotentParameterMismatch",
                    "The client token was used before with other parameters.",
                )
            return _result(known)
        fleet = Fleet(
            fleet_id=f"fleet-{uuid.uuid4()}",
            request=request,
            tags=tags,
            created_at=datetime.now(timezone.utc),
        )
        candidates = list(self._candidates(request))
        refused = self._refused_by_policy(candidates, request, authorize)
        if _is_spot(request) and not refused:
            store.create_spot_role()
        allocation = Allocation((), ()) if refused else self._allocate(request, candidates)
        fleet.errors = refused or [
            _error(candidates[one.offer.order], one.code, one.message) for one in allocation.refused
        ]
        for offer in dict.fromkeys(allocation.granted):
            candidate = candidates[offer.order]
            ids = [self._launch(candidate, fleet) for _ in range(allocation.granted.count(offer))]
            fleet.instances.append(
                {**_where(candidate), "InstanceIds": ids, "InstanceType": offer.pool.instance_type}
            )
        self._all[fleet.fleet_id] = fleet
        if token:
            self._by_token[store.account_id(), token] = fleet
        return _result(fleet)

    def _candidates(self, request: dict[str, Any]) -> Iterator[_Candidate]:
        target = request["TargetCapacitySpecification"]
        lifecycle = cast("Lifecycle", target["DefaultTargetCapacityType"])
        order = itertools.count()
        for config in request["LaunchTemplateConfigs"]:
            template = store.find_launch_template(config.get("LaunchTemplateSpecification", {}))
            for override in config.get("Overrides") or [{}]:
                merged = {**template.data, **override}
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
                yield _Candidate(
                    offer=offer,
                    template=template,
                    override=override,
                    subnet=subnet,
                    image=image,
                    image_parameter=parameter,
                    profile=store.find_profile(profile) if profile else None,
                )

    def _refused_by_policy(
        self, candidates: list[_Candidate], request: dict[str, Any], authorize: Authorize
    ) -> list[dict[str, Any]]:
        """Check what the launch needs; EC2 reports a denial per override, not as an error."""
        tags = _tags(request, "instance")
        errors = []
        for candidate in candidates:
            data = candidate.template.data
            try:
                authorize(
                    "CreateFleet",
                    on_launch=True,
                    template=[candidate.template.template_id],
                    subnet=[candidate.subnet.subnet_id],
                    group=_groups(data),
                    image=[candidate.image],
                    parameter=[candidate.image_parameter] if candidate.image_parameter else [],
                    role=[store.role_arn(candidate.profile.role)] if candidate.profile else [],
                    instance_type=[candidate.offer.pool.instance_type],
                    spot_request=["spot-instances-request"] if _is_spot(request) else [],
                    missing_role=(
                        [store.SPOT_ROLE] if _is_spot(request) and not store.has_spot_role() else []
                    ),
                    tagged=["instance", *_tagged_by(data)] if tags else _tagged_by(data),
                    tags=[f"{key}={value}" for key, value in tags.items()],
                )
            except ApiError as exc:
                errors.append(_error(candidate, exc.code, exc.message))
        return errors

    def _allocate(self, request: dict[str, Any], candidates: list[_Candidate]) -> Allocation:
        target = request["TargetCapacitySpecification"]
        options = request.get("SpotOptions" if _is_spot(request) else "OnDemandOptions", {})
        return allocate(
            self._instances.market,
            [candidate.offer for candidate in candidates],
            wanted=target["TotalTargetCapacity"],
            strategy=options.get("AllocationStrategy", "lowest-price"),
            same_type=options.get("SingleInstanceType", False),
            same_zone=options.get("SingleAvailabilityZone", False),
            minimum=options.get("MinTargetCapacity", 0),
        )

    def _launch(self, candidate: _Candidate, fleet: Fleet) -> str:
        data = {**candidate.template.data, **candidate.override}
        metadata = data.get("MetadataOptions") or {}
        tags = {**_template_tags(candidate.template.data), **_tags(fleet.request, "instance")}
        instance_id = new_instance_id()
        tags |= {
            "aws:ec2:fleet-id": fleet.fleet_id,
            "aws:ec2launchtemplate:id": candidate.template.template_id,
            "aws:ec2launchtemplate:version": str(candidate.template.version),
        }
        instance = Instance(
            instance_id=instance_id,
            instance_type=candidate.offer.pool.instance_type,
            lifecycle=candidate.offer.pool.lifecycle,
            subnet=candidate.subnet,
            image_id=candidate.image,
            account=store.account_id(),
            region=store.region(),
            user_data=_user_data(data.get("UserData", "")),
            root=Path(self._instances.home) / "instances" / instance_id,
            private_ip=self._address(candidate.subnet),
            tags=tags,
            architecture=catalog.architecture(candidate.offer.pool.instance_type),
            profile=candidate.profile,
            tags_in_metadata=metadata.get("InstanceMetadataTags") == "enabled",
            shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior", "stop"),
            security_groups=tuple(_groups(data)),
            fleet_id=fleet.fleet_id,
            launch_template={
                "id": candidate.template.template_id,
                "version": str(candidate.template.version),
            },
            client_token=fleet.request.get("ClientToken", ""),
        )
        store.set_tags(instance_id, tags)
        self._instances.launch(instance)
        return instance_id

    def _address(self, subnet: Subnet) -> str:
        number = next(self._addresses)
        first, second, third, _ = subnet.cidr.partition("/")[0].split(".")
        return f"{first}.{second}.{int(third) + number // 250 % 4}.{number % 250 + 4}"

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """DescribeFleets."""
        wanted = request.get("FleetIds")
        missing = [one for one in wanted or [] if one not in self._all]
        if missing:
            raise ApiError("InvalidFleetId.NotFound", f"No fleet {', '.join(missing)}")
        # Without ids, instant fleets are left out, as on AWS.
        return {"Fleets": [_described(self._all[one], self._instances) for one in wanted or []]}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteFleets: an instant fleet takes its instances with it."""
        gone, refused = [], []
        for fleet_id in request["FleetIds"]:
            fleet = self._all.get(fleet_id)
            if fleet is None:
                code, message = "fleetIdDoesNotExist", f"The fleet ID '{fleet_id}' does not exist"
            elif not request["TerminateInstances"]:
                code = "unexpectedError"
                message = "NoTerminateInstances is not supported for instant fleets"
            else:
                gone.append(
                    {
                        "FleetId": fleet_id,
                        "PreviousFleetState": "deleted" if fleet.deleted else "active",
                        "CurrentFleetState": "deleted_terminating",
                    }
                )
                fleet.deleted = True
                for instance_id in fleet.instance_ids():
                    self._instances.terminate(self._instances.get(instance_id), ended_by_user())
                continue
            refused.append({"FleetId": fleet_id, "Error": {"Code": code, "Message": message}})
        return {"SuccessfulFleetDeletions": gone, "UnsuccessfulFleetDeletions": refused}


_TAGGED_AT_LAUNCH = {"fleet", "instance", "volume", "network-interface", "spot-instances-request"}


def _is_spot(request: dict[str, Any]) -> bool:
    return bool(request["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "spot")


def _check(request: dict[str, Any]) -> None:
    target = request["TargetCapacitySpecification"]
    if request.get("Type", "maintain") != "instant":
        raise ApiError("UnsupportedOperation", _INSTANT_ONLY)
    if "DefaultTargetCapacityType" not in target:
        raise ApiError("MissingParameter", "The local cloud needs DefaultTargetCapacityType.")
    split = [target.get("SpotTargetCapacity"), target.get("OnDemandTargetCapacity")]
    whole = [None, 0, target["TotalTargetCapacity"]]
    if any(one not in whole for one in split):
        raise ApiError("UnsupportedOperation", "The local cloud has no fleets of both markets.")
    if target["DefaultTargetCapacityType"] not in {"spot", "on-demand"}:
        raise ApiError("InvalidParameterValue", "DefaultTargetCapacityType is spot or on-demand.")
    if target["TotalTargetCapacity"] < 1:
        raise ApiError("InvalidParameterValue", "TotalTargetCapacity is below 1.")
    for name in ("SpotOptions", "OnDemandOptions"):
        options = request.get(name, {})
        single = options.get("SingleInstanceType") or options.get("SingleAvailabilityZone")
        if "MinTargetCapacity" in options and not single:
            raise ApiError(
                "InvalidParameterCombination",
                f"{name}: MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone.",
            )
        if options.get("MinTargetCapacity", 0) > target["TotalTargetCapacity"]:
            raise ApiError("InvalidParameterValue", "MinTargetCapacity exceeds the target.")
        if "MaintenanceStrategies" in options:
            raise ApiError(
                "InvalidParameterCombination",
                "MaintenanceStrategies is for fleets of type maintain.",
            )
    for spec in request.get("TagSpecifications", []):
        if spec.get("ResourceType") not in _TAGGED_AT_LAUNCH:
            raise ApiError("InvalidParameterValue", "Tags are for the fleet or what it launches.")
        if any(tag["Key"].lower().startswith("aws:") for tag in spec.get("Tags", [])):
            raise ApiError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved.")
    _check_one_subnet_a_zone(request)


def _check_one_subnet_a_zone(request: dict[str, Any]) -> None:
    seen: dict[str, str] = {}
    for config in request["LaunchTemplateConfigs"]:
        for override in config.get("Overrides", []):
            if subnet_id := override.get("SubnetId"):
                zone = store.find_subnet(subnet_id).zone
                if seen.setdefault(zone, subnet_id) != subnet_id:
                    raise ApiError("InvalidFleetConfiguration", f"Two subnets of one zone, {zone}.")


def _placed(merged: dict[str, Any]) -> Subnet:
    zone = merged.get("AvailabilityZone")
    interfaces = merged.get("NetworkInterfaces") or [{}]
    subnet_id = merged.get("SubnetId") or interfaces[0].get("SubnetId")
    if subnet_id:
        subnet = store.find_subnet(subnet_id)
        if zone and zone != subnet.zone:
            raise ApiError("InvalidParameterCombination", f"{subnet_id} is not in {zone}.")
        return subnet
    zone = zone or (merged.get("Placement") or {}).get("AvailabilityZone")
    return store.find_default_subnet(zone or store.zones()[0])


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


def _groups(data: dict[str, Any]) -> list[str]:
    interfaces = data.get("NetworkInterfaces") or [{}]
    return list(data.get("SecurityGroupIds") or interfaces[0].get("Groups") or [])


def _tags(request: dict[str, Any], kind: str) -> dict[str, str]:
    return {
        tag["Key"]: tag.get("Value", "")
        for spec in request.get("TagSpecifications", [])
        if spec.get("ResourceType") == kind
        for tag in spec.get("Tags", [])
    }


def _template_tags(data: dict[str, Any]) -> dict[str, str]:
    return _tags(data, "instance")


def _tagged_by(data: dict[str, Any]) -> list[str]:
    return [spec["ResourceType"] for spec in data.get("TagSpecifications", []) if spec.get("Tags")]


def _template_ids(request: dict[str, Any]) -> list[str]:
    specs = (one.get("LaunchTemplateSpecification", {}) for one in request["LaunchTemplateConfigs"])
    return [store.find_launch_template(spec).template_id for spec in specs]


def _user_data(text: Any) -> bytes:
    if isinstance(text, dict):
        raise ApiError("InvalidParameterValue", f"The user data was never resolved: {text}")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ApiError("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data") from exc
    if len(data) > _MOST_USER_DATA:
        raise ApiError("InvalidParameterValue", "User data is limited to 16384 bytes")
    return data


def _where(candidate: _Candidate) -> dict[str, Any]:
    allowed = {
        "InstanceType", "MaxPrice", "SubnetId", "AvailabilityZone", "WeightedCapacity", "Priority",
        "ImageId",
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


def _error(candidate: _Candidate, code: str, message: str) -> dict[str, Any]:
    return {**_where(candidate), "ErrorCode": code, "ErrorMessage": message}


def _result(fleet: Fleet) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(
        json.dumps(
            {"FleetId": fleet.fleet_id, "Errors": fleet.errors, "Instances": fleet.instances}
        )
    )
    return copied


def _described(fleet: Fleet, instances: Instances) -> dict[str, Any]:
    target = fleet.request["TargetCapacitySpecification"]
    alive = [one for one in fleet.instance_ids() if instances.get(one).is_alive]
    return {
        "FleetId": fleet.fleet_id,
        "FleetState": "deleted_terminating" if fleet.deleted else "active",
        "ClientToken": fleet.request.get("ClientToken"),
        "CreateTime": fleet.created_at,
        "Type": "instant",
        "ActivityStatus": "fulfilled" if fleet.instances else "error",
        "FulfilledCapacity": float(len(alive)),
        "TargetCapacitySpecification": {
            key: value for key, value in target.items() if key != "TargetCapacityUnitType"
        },
        "Tags": [{"Key": key, "Value": value} for key, value in fleet.tags.items()],
        "Errors": fleet.errors,
        "Instances": fleet.instances,
    }
