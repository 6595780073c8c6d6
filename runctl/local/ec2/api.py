"""The calls of EC2 about instances, fleets, volumes and tags that the gateway answers itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from runctl.local.core import records
from runctl.local.core.instance import STATE_CODES, Instance, ended_by_user
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.account_calls import AccountCalls
from runctl.local.ec2.applied import check_applied
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import check_filters, filters_of, matches, page, tags_match
from runctl.local.ec2.fleets import Fleets
from runctl.local.ec2.instances import Instances
from runctl.local.ec2.market_calls import MarketCalls
from runctl.local.ec2.responses import reservation_of, state_of
from runctl.local.ec2.statuses import describe_statuses
from runctl.local.ec2.tag_rules import check_shown_keys, check_tags
from runctl.local.ec2.volumes import Volumes

# ministack would keep records of them, and nothing would happen to an instance.
_ABSENT = frozenset(
    {
        "RequestSpotInstances", "RequestSpotFleet", "CancelSpotInstanceRequests",
        "CancelSpotFleetRequests", "StartInstances", "StopInstances", "RebootInstances",
        "ModifyFleet", "ModifySpotFleetRequest", "ModifyInstanceAttribute",
        "ModifyInstanceMetadataOptions", "AttachVolume", "DetachVolume", "ModifyVolume",
    }
)  # fmt: skip
INSTANCE_FILTERS: Mapping[str, Callable[[Instance], str]] = {
    "availability-zone": lambda instance: instance.zone,
    "client-token": lambda instance: instance.client_token,
    "image-id": lambda instance: instance.image_id,
    "instance-id": lambda instance: instance.instance_id,
    "instance-lifecycle": lambda instance: instance.lifecycle,
    "instance-state-code": lambda instance: str(STATE_CODES[instance.state]),
    "instance-state-name": lambda instance: instance.state,
    "instance-type": lambda instance: instance.instance_type,
    "placement-group-name": lambda instance: instance.placement_group,
    "private-ip-address": lambda instance: instance.private_ip,
    "state-reason-code": lambda instance: instance.end.code if instance.end else "",
    "subnet-id": lambda instance: instance.subnet.subnet_id,
    "vpc-id": lambda instance: instance.subnet.vpc_id,
}


class Ec2:
    """Answers the actions for which `answers` is true."""

    def __init__(self, instances: Instances, fleets: Fleets, volumes: Volumes) -> None:
        self._instances, self._fleets, self._volumes = instances, fleets, volumes
        market, self._account = MarketCalls(instances.market), AccountCalls(instances.knobs)
        self._actions: Mapping[str, Callable[[dict[str, Any], Authorize], dict[str, Any]]] = {
            "CreateFleet": fleets.create,
            "RunInstances": self._run_instances,
            "DescribeFleets": self._describe_fleets,
            "DeleteFleets": self._delete_fleets,
            "DescribeTags": self._describe_tags,
            "DescribeVolumes": self._describe_volumes,
            "DeleteVolume": self._delete_volume,
            "DescribeInstances": self._describe_instances,
            "DescribeInstanceStatus": self._describe_status,
            "TerminateInstances": self._terminate,
            "GetConsoleOutput": self._console_output,
            "DescribeSpotPriceHistory": market.price_history,
            "DescribeInstanceTypeOfferings": market.offerings,
            "DescribeInstanceTypes": market.instance_types,
            "DescribeImages": self._account.images,
            "GetEbsDefaultKmsKeyId": self._account.default_key,
            "ModifyEbsDefaultKmsKeyId": self._account.set_default_key,
            "CreateTags": self._create_tags,
            "DeleteTags": self._delete_tags,
        }

        self._dry_runs: Mapping[str, Callable[[dict[str, Any], Authorize], object]] = {
            "CreateFleet": fleets.rehearse,
            "RunInstances": fleets.rehearse_instances,
            "TerminateInstances": self._ending,
        }

    def answers(self, action: str, request: Mapping[str, Any]) -> bool:
        """Return whether a call is answered here; ministack has the tags of other resources."""
        if action == "CreateTags":
            check_tags(request.get("Tags", []))
        if action in {"CreateTags", "DeleteTags"}:
            return all(str(name).startswith("i-") for name in request.get("Resources", []))
        if action == "DescribeImages":
            return self._account.knows_images(request)
        if action == "DescribeTags":  # ministack has no fleets
            return filters_of(request).get("resource-type") == ["fleet"]
        return action in self._actions

    def knows(self, action: str) -> bool:
        """Return whether the action may be answered here; raise ApiError if the cloud lacks it."""
        if action in _ABSENT:
            raise _absent(action)
        return action in self._actions

    def answer(self, action: str, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Perform one call."""
        is_dry = request.pop("DryRun", False)
        if is_dry and action not in self._dry_runs:
            raise ApiError("UnsupportedOperation", f"The local cloud has no dry run of {action}.")
        check_applied("ec2", action, request)
        if is_dry:
            self._dry_runs[action](request, authorize)
            raise ApiError(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
                status=412,
            )
        return self._actions[action](request, authorize)

    def _run_instances(self, _request: dict[str, Any], _authorize: Authorize) -> dict[str, Any]:
        raise _absent("RunInstances")

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
        shown, token = page(self._matching(request, INSTANCE_FILTERS), request)
        return {
            "Reservations": [reservation_of(instance) for instance in shown],
            "NextToken": token,
        }

    def _describe_status(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        authorize("DescribeInstanceStatus")
        unfiltered = {key: value for key, value in request.items() if key != "Filters"}
        found = self._matching(unfiltered, INSTANCE_FILTERS)
        shown, token = page(describe_statuses(found, request), request)
        return {"InstanceStatuses": shown, "NextToken": token}

    def _ending(self, request: dict[str, Any], authorize: Authorize) -> list[Instance]:
        # All or none: an unknown id ends nothing.
        targets = [self._instances.get(instance_id) for instance_id in request["InstanceIds"]]
        authorize("TerminateInstances", instance=[target.instance_id for target in targets])
        return targets

    def _terminate(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        changes = []
        at_once = request.get("Force") or request.get("SkipOsShutdown")
        for instance in self._ending(request, authorize):
            before = instance.state
            self._instances.terminate(
                instance, ended_by_user(), grace_seconds=0 if at_once else None
            )
            changes.append(
                {
                    "InstanceId": instance.instance_id,
                    "PreviousState": state_of(before),
                    "CurrentState": state_of(instance.state),
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

    def _create_tags(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        return self._change_tags(request, authorize, "CreateTags")

    def _delete_tags(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        return self._change_tags(request, authorize, "DeleteTags")

    def _change_tags(
        self, request: dict[str, Any], authorize: Authorize, action: str
    ) -> dict[str, Any]:
        targets = [self._instances.get(instance_id) for instance_id in request["Resources"]]
        tags = request.get("Tags", [])
        pairs = {tag["Key"]: tag.get("Value", "") for tag in tags}
        authorize(
            action,
            instance=[target.instance_id for target in targets],
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
            found = [self._instances.get(instance_id) for instance_id in ids]
        else:
            found = [known for known in self._instances.all() if self._is_visible(known)]
        filters = filters_of(request)
        check_filters(filters, known=[*known, "instance.group-id"], tags=True)
        for name, values in filters.items():
            if name in known:
                found = [item for item in found if matches(known[name](item), values)]
            elif name == "instance.group-id":
                found = [
                    item
                    for item in found
                    if any(matches(group, values) for group in item.security_groups)
                ]
            else:
                found = [item for item in found if tags_match(item.tags, name, values)]
        return found

    def _is_visible(self, instance: Instance) -> bool:
        try:
            self._instances.get(instance.instance_id)
        except ApiError:
            return False
        return True


def _absent(action: str) -> ApiError:
    return ApiError(
        "UnsupportedOperation",
        f"The local cloud has no {action}: instances are launched by CreateFleet of type instant, "
        "and ended by TerminateInstances or DeleteFleets.",
    )


def _without(tags: Mapping[str, str], gone: list[dict[str, str]]) -> dict[str, str]:
    """Remove tags as DeleteTags does: a value must match; without tags all but those of AWS go."""
    if not gone:
        return {key: value for key, value in tags.items() if key.startswith("aws:")}
    removed = {
        tag["Key"] for tag in gone if tag.get("Value", tags.get(tag["Key"])) == tags.get(tag["Key"])
    }
    return {key: value for key, value in tags.items() if key not in removed}
