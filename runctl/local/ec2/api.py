"""The instance-level calls of EC2 that the gateway answers itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.local.core import catalog, records
from runctl.local.core.instance import STATE_CODES, Instance, ended_by_user
from runctl.local.core.market import Pool
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.applied import check_applied
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import check_filters, filters_of, matches, page, tags_match
from runctl.local.ec2.fleets import Fleets
from runctl.local.ec2.instances import Instances
from runctl.local.ec2.statuses import describe_statuses
from runctl.local.ec2.tag_rules import check_shown_keys, check_tags
from runctl.local.ec2.volumes import Volumes

_STEP = timedelta(hours=1)
# ministack would keep records of them, and nothing would happen to an instance.
_ABSENT = frozenset(
    {
        "RunInstances", "RequestSpotInstances", "RequestSpotFleet", "CancelSpotInstanceRequests",
        "CancelSpotFleetRequests", "StartInstances", "StopInstances", "RebootInstances",
        "ModifyFleet", "ModifySpotFleetRequest", "ModifyInstanceAttribute",
        "ModifyInstanceMetadataOptions", "AttachVolume", "DetachVolume", "ModifyVolume",
    }
)  # fmt: skip
_PRODUCTS = {"Linux/UNIX", "Linux/UNIX (Amazon VPC)"}


class Ec2:
    """Answers actions; `answers` says which."""

    def __init__(self, instances: Instances, fleets: Fleets, volumes: Volumes) -> None:
        self._instances, self._fleets, self._volumes = instances, fleets, volumes
        self._actions: Mapping[str, Callable[[dict[str, Any], Authorize], dict[str, Any]]] = {
            "CreateFleet": fleets.create,
            "DescribeFleets": self._describe_fleets,
            "DeleteFleets": self._delete_fleets,
            "DescribeTags": self._describe_tags,
            "DescribeVolumes": self._describe_volumes,
            "DeleteVolume": self._delete_volume,
            "DescribeInstances": self._describe_instances,
            "DescribeInstanceStatus": self._describe_status,
            "TerminateInstances": self._terminate,
            "GetConsoleOutput": self._console_output,
            "DescribeSpotPriceHistory": self._price_history,
            "DescribeInstanceTypeOfferings": self._offerings,
            "DescribeInstanceTypes": self._instance_types,
            "CreateTags": self._create_tags,
            "DeleteTags": self._delete_tags,
        }

    def answers(self, action: str, request: Mapping[str, Any]) -> bool:
        """Say whether a call is answered here; tags of other resources are ministack's."""
        if action == "CreateTags":
            check_tags(request.get("Tags", []))
        if action in {"CreateTags", "DeleteTags"}:
            return all(str(one).startswith("i-") for one in request.get("Resources", []))
        if action == "DescribeTags":  # ministack knows of no fleets
            return filters_of(request).get("resource-type") == ["fleet"]
        return action in self._actions

    def knows(self, action: str) -> bool:
        """Say whether the action may be answered here; refuse it if it can be nowhere."""
        if action in _ABSENT:
            raise ApiError(
                "UnsupportedOperation",
                f"The local cloud has no {action}: instances are launched by CreateFleet of type "
                "instant, and ended by TerminateInstances or DeleteFleets.",
            )
        return action in self._actions

    def answer(self, action: str, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Perform one call."""
        if request.pop("DryRun", False):
            raise ApiError("UnsupportedOperation", "The local cloud has no dry runs.")
        check_applied("ec2", action, request)
        return self._actions[action](request, authorize)

    def _describe_fleets(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeFleets")
        return self._fleets.describe(request)

    def _describe_tags(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeTags")
        filters = filters_of(request)
        check_filters(filters, known=("resource-type", "resource-id", "key", "value"))
        rows = [
            {"ResourceId": fleet_id, "ResourceType": "fleet", "Key": key, "Value": value}
            for fleet_id, tags in self._fleets.tags().items()
            for key, value in tags.items()
            if matches(fleet_id, filters.get("resource-id"))
            and matches(key, filters.get("key"))
            and matches(value, filters.get("value"))
        ]
        shown, token = page(rows, request)
        return {"Tags": shown, "NextToken": token}

    def _describe_volumes(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeVolumes")
        rows, token = page(self._volumes.describe(request), request)
        return {"Volumes": rows, "NextToken": token}

    def _delete_volume(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        volume = self._volumes.get(request["VolumeId"])
        authorize("DeleteVolume", volume=[volume.volume_id])
        self._volumes.delete(volume.volume_id)
        return {}

    def _delete_fleets(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DeleteFleets", fleet=request["FleetIds"])
        return self._fleets.delete(request)

    def _describe_instances(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeInstances")
        if "InstanceIds" in request and "MaxResults" in request:
            raise ApiError(
                "InvalidParameterCombination",
                "The parameter instancesSet cannot be used with the parameter maxResults",
            )
        shown, token = page(self._matching(request, Instance_filters), request)
        return {"Reservations": [_reservation(one) for one in shown], "NextToken": token}

    def _describe_status(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeInstanceStatus")
        unfiltered = {key: value for key, value in request.items() if key != "Filters"}
        found = self._matching(unfiltered, Instance_filters)
        shown, token = page(describe_statuses(found, request), request)
        return {"InstanceStatuses": shown, "NextToken": token}

    def _terminate(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        # All or none: an unknown id ends nothing.
        targets = [self._instances.get(one) for one in request["InstanceIds"]]
        authorize("TerminateInstances", instance=[one.instance_id for one in targets])
        changes = []
        at_once = request.get("Force") or request.get("SkipOsShutdown")
        for instance in targets:
            before = instance.state
            self._instances.terminate(
                instance, ended_by_user(), grace_seconds=0 if at_once else None
            )
            changes.append(
                {
                    "InstanceId": instance.instance_id,
                    "PreviousState": _state(before),
                    "CurrentState": _state(instance.state),
                }
            )
        return {"TerminatingInstances": changes}

    def _console_output(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        instance = self._instances.get(request["InstanceId"])
        authorize("GetConsoleOutput", instance=[instance.instance_id])
        output = self._instances.console_output(instance)
        return {
            "InstanceId": instance.instance_id,
            "Timestamp": datetime.now(timezone.utc),
            "Output": base64.b64encode(output).decode(),
        }

    def _price_history(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeSpotPriceHistory")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type", "availability-zone", "product-description"))
        wanted = (request.get("ProductDescriptions"), filters.get("product-description"))
        if any(one is not None and not set(one) & _PRODUCTS for one in wanted):
            return {"SpotPriceHistory": [], "NextToken": ""}
        types = (
            request.get("InstanceTypes") or filters.get("instance-type") or catalog.known_types()
        )
        zones = (
            [request["AvailabilityZone"]]
            if "AvailabilityZone" in request
            else (filters.get("availability-zone") or records.zones())
        )
        now = datetime.now(timezone.utc)
        start = request.get("StartTime") or now
        end = min(request.get("EndTime") or now, now)
        moments = [end - _STEP * step for step in range(90 * 24) if end - _STEP * step >= start]
        rows = [
            {
                "AvailabilityZone": zone,
                "InstanceType": instance_type,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": f"{self._instances.market.price(Pool(instance_type, zone)):.6f}",
                "Timestamp": moment,
            }
            for moment in moments[:24] or [end]
            for instance_type in types
            for zone in zones
        ]
        shown, token = page(rows, request, least=1)
        return {"SpotPriceHistory": shown, "NextToken": token or ""}

    def _offerings(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeInstanceTypeOfferings")
        kind = request.get("LocationType", "region")
        if kind not in {"region", "availability-zone"}:
            raise ApiError("UnsupportedOperation", f"The local cloud has no offerings by {kind}.")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type", "location"))
        places = records.zones() if kind == "availability-zone" else [records.region()]
        rows = [
            {"InstanceType": name, "LocationType": kind, "Location": place}
            for name in catalog.known_types()
            for place in places
            if matches(name, filters.get("instance-type"))
            and matches(place, filters.get("location"))
            and self._instances.market.error(Pool(name, place)) != "Unsupported"
        ]
        shown, token = page(rows, request)
        return {"InstanceTypeOfferings": shown, "NextToken": token}

    def _instance_types(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeInstanceTypes")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type",))
        names = request.get("InstanceTypes") or [
            name for name in catalog.known_types() if matches(name, filters.get("instance-type"))
        ]
        shown, token = page([catalog.look_up(name) for name in names], request)
        return {"InstanceTypes": [_described_type(one) for one in shown], "NextToken": token}

    def _create_tags(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        return self._change_tags(request, authorize, "CreateTags")

    def _delete_tags(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        return self._change_tags(request, authorize, "DeleteTags")

    def _change_tags(
        self, request: dict[str, Any], authorize: Authorize, action: str
    ) -> dict[str, Any]:
        targets = [self._instances.get(one) for one in request["Resources"]]
        tags = request.get("Tags", [])
        pairs = {tag["Key"]: tag.get("Value", "") for tag in tags}
        authorize(
            action,
            instance=[one.instance_id for one in targets],
            tags=[f"{key}={value}" for key, value in pairs.items()],
        )
        if action == "CreateTags":
            for instance in targets:
                check_tags(tags, kept=instance.tags)
                if instance.tags_in_metadata:
                    check_shown_keys(pairs)
        for instance in targets:
            kept = instance.tags if action == "CreateTags" else _without(instance.tags, tags)
            instance.tags = {**kept, **pairs} if action == "CreateTags" else kept
            records.set_tags(instance.instance_id, instance.tags)
        return {}

    def _matching(
        self, request: dict[str, Any], known: Mapping[str, Callable[[Instance], str]]
    ) -> list[Instance]:
        if ids := request.get("InstanceIds"):
            found = [self._instances.get(one) for one in ids]
        else:
            found = [one for one in self._instances.all() if _is_visible(self._instances, one)]
        filters = filters_of(request)
        check_filters(filters, known=[*known, "instance.group-id"], tags=True)
        for name, values in filters.items():
            if name in known:
                found = [one for one in found if matches(known[name](one), values)]
            elif name == "instance.group-id":
                found = [
                    one
                    for one in found
                    if any(matches(group, values) for group in one.security_groups)
                ]
            else:
                found = [one for one in found if tags_match(one.tags, name, values)]
        return found


def _without(tags: Mapping[str, str], gone: list[dict[str, str]]) -> dict[str, str]:
    """Take tags away as DeleteTags does: a value must match, none takes all but those of AWS."""
    if not gone:
        return {key: value for key, value in tags.items() if key.startswith("aws:")}
    removed = {
        one["Key"] for one in gone if one.get("Value", tags.get(one["Key"])) == tags.get(one["Key"])
    }
    return {key: value for key, value in tags.items() if key not in removed}


def _is_visible(instances: Instances, instance: Instance) -> bool:
    try:
        instances.get(instance.instance_id)
    except ApiError:
        return False
    return True


Instance_filters: Mapping[str, Callable[[Instance], str]] = {
    "availability-zone": lambda one: one.zone,
    "client-token": lambda one: one.client_token,
    "image-id": lambda one: one.image_id,
    "instance-id": lambda one: one.instance_id,
    "instance-lifecycle": lambda one: one.lifecycle,
    "instance-state-code": lambda one: str(STATE_CODES[one.state]),
    "instance-state-name": lambda one: one.state,
    "instance-type": lambda one: one.instance_type,
    "private-ip-address": lambda one: one.private_ip,
    "state-reason-code": lambda one: one.end.code if one.end else "",
    "subnet-id": lambda one: one.subnet.subnet_id,
    "vpc-id": lambda one: one.subnet.vpc_id,
}


def _state(name: str) -> dict[str, Any]:
    return {"Code": STATE_CODES[name], "Name": name}


def _reservation(one: Instance) -> dict[str, Any]:
    return {
        "ReservationId": one.reservation_id,
        "OwnerId": one.account,
        "Instances": [_described(one)],
    }


def _described(one: Instance) -> dict[str, Any]:
    gone = one.state == "terminated"
    return {
        "InstanceId": one.instance_id,
        "ImageId": one.image_id,
        "InstanceType": one.instance_type,
        "InstanceLifecycle": "spot" if one.lifecycle == "spot" else None,
        "Architecture": one.architecture,
        "LaunchTime": one.launched_at,
        "State": _state(one.state),
        "StateReason": {"Code": one.end.code, "Message": f"{one.end.code}: {one.end.message}"}
        if one.end
        else None,
        "StateTransitionReason": one.end.transition if one.end else "",
        "Placement": {
            "AvailabilityZone": one.zone,
            "GroupName": "",
            "Tenancy": "default",
        },
        "SubnetId": None if gone else one.subnet.subnet_id,
        "VpcId": None if gone else one.subnet.vpc_id,
        "PrivateIpAddress": None if gone else one.private_ip,
        "PrivateDnsName": "" if gone else one.private_dns,
        "PublicDnsName": "",
        "IamInstanceProfile": {"Arn": one.profile.arn, "Id": one.profile.profile_id}
        if one.profile
        else None,
        "SecurityGroups": [] if gone else [{"GroupId": group} for group in one.security_groups],
        "ClientToken": one.client_token,
        "SpotInstanceRequestId": f"sir-{one.instance_id[2:10]}"
        if one.lifecycle == "spot"
        else None,
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "enabled" if one.tags_in_metadata else "disabled",
        },
        "Tags": [{"Key": key, "Value": value} for key, value in one.tags.items()],
    }


def _described_type(one: catalog.InstanceType) -> dict[str, Any]:
    gpus = {"Gpus": [{"Name": "GPU", "Manufacturer": "NVIDIA", "Count": one.gpus}]}
    return {
        "InstanceType": one.name,
        "CurrentGeneration": True,
        "SupportedUsageClasses": ["on-demand", "spot"],
        "ProcessorInfo": {"SupportedArchitectures": [one.architecture]},
        "VCpuInfo": {"DefaultVCpus": one.vcpus},
        "MemoryInfo": {"SizeInMiB": one.memory_mib},
        "GpuInfo": gpus if one.gpus else None,
    }
