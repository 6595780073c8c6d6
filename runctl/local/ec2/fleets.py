"""The fleets of the local cloud: CreateFleet of type instant, DescribeFleets and DeleteFleets."""

from __future__ import annotations

import itertools
import threading
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runctl.local.core import catalog, records
from runctl.local.core.allocation import Allocation, allocate
from runctl.local.core.instance import Instance, ended_by_user, new_instance_id
from runctl.local.core.protocol import ApiError
from runctl.local.core.records import Subnet
from runctl.local.ec2 import block_devices
from runctl.local.ec2.disk_keys import Authorize, end_of_launch
from runctl.local.ec2.filters import page
from runctl.local.ec2.fleet import Fleet, description_of, outcome_of
from runctl.local.ec2.fleet_request import (
    Candidate,
    candidates_of,
    check,
    decode_user_data,
    error_of,
    is_spot,
    kinds_tagged_by,
    refusal,
    security_groups,
    shows_tags,
    tags_for,
    template_ids,
    template_tags,
    where,
)
from runctl.local.ec2.instances import Instances
from runctl.local.ec2.placement import check_room
from runctl.local.ec2.quotas import Quotas
from runctl.local.ec2.volumes import Volumes

_MAX_FLEETS_PER_DELETE = 25


class Fleets:
    """Every fleet since the local cloud began."""

    def __init__(self, instances: Instances, volumes: Volumes, quotas: Quotas) -> None:
        self._instances, self._volumes, self._quotas = instances, volumes, quotas
        self._all: dict[str, Fleet] = {}
        self._by_token: dict[tuple[str, str], Fleet] = {}
        self._lock = threading.Lock()
        self._addresses = itertools.count(10)

    def create(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Launch an instant fleet, or repeat the response of the same token."""
        check(request)
        with self._lock:
            return self._create(request, authorize)

    def rehearse(self, request: dict[str, Any], authorize: Authorize) -> list[Candidate]:
        """Check a fleet without launching it (DryRun).

        What a launch needs, EC2 finds out per override, which a dry run does not get to.
        """
        check(request)
        _authorize_fleet(request, authorize)
        return _candidates(request, authorize)

    def rehearse_instances(self, request: dict[str, Any], authorize: Authorize) -> None:
        """Check a launch of RunInstances without performing it (DryRun)."""
        named = request.get("LaunchTemplate", {})
        given = ("InstanceType", "SubnetId", "NetworkInterfaces")
        override = {name: request[name] for name in given if name in request}
        merged = {**records.find_launch_template(named).data, **override}
        if "SubnetId" in override and merged.get("NetworkInterfaces"):
            raise ApiError(
                "InvalidParameterCombination",
                "Network interfaces and an instance-level subnet ID may not be specified on the "
                "same request",
            )
        fleet = {
            "Type": "instant",
            "LaunchTemplateConfigs": [
                {"LaunchTemplateSpecification": named, "Overrides": [override]}
            ],
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": request["MinCount"],
                "DefaultTargetCapacityType": "on-demand",
            },
        }
        check(fleet)
        refused = self._refused(list(candidates_of(fleet)), fleet, authorize)
        for error in refused.values():
            raise ApiError(error["ErrorCode"], error["ErrorMessage"], status=403)

    def _create(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        token = request.get("ClientToken")
        tags = _authorize_fleet(request, authorize)
        if token and (known := self._by_token.get((records.account_id(), token))):
            if known.request != request:
                raise ApiError(
                    "IdempotentParameterMismatch",
                    "The client token was used before with other parameters.",
                )
            return outcome_of(known)
        fleet = Fleet(
            fleet_id=f"fleet-{uuid.uuid4()}",
            request=request,
            tags=tags,
            created_at=datetime.now(timezone.utc),
        )
        candidates = _candidates(request, authorize)
        refused = self._refused(candidates, request, authorize)
        able = [item for item in candidates if item.offer.order not in refused]
        if is_spot(request) and able:
            records.create_spot_role()
        allocation = self._allocate(request, able) if able else Allocation((), ())
        fleet.errors = list(refused.values()) + [
            error_of(candidates[found.offer.order], found.code, found.message)
            for found in allocation.refused
        ]
        for offer in dict.fromkeys(allocation.granted):
            candidate = candidates[offer.order]
            ids = [
                self._launch(candidate, fleet, authorize)
                for _ in range(allocation.granted.count(offer))
            ]
            fleet.instances.append(
                {**where(candidate), "InstanceIds": ids, "InstanceType": offer.pool.instance_type}
            )
        self._all[fleet.fleet_id] = fleet
        records.set_tags(fleet.fleet_id, tags)
        if token:
            self._by_token[records.account_id(), token] = fleet
        return outcome_of(fleet)

    def _refused(
        self, candidates: list[Candidate], request: dict[str, Any], authorize: Authorize
    ) -> dict[int, dict[str, Any]]:
        """Check what the launch needs; EC2 reports a refusal per override, not as an error."""
        tags = tags_for(request, "instance")
        tagged = [kind for kind in kinds_tagged_by(request) if kind != "fleet"]
        errors = {}
        for candidate in candidates:
            data = candidate.template.data
            try:
                if found := refusal(candidate, request):
                    raise found
                authorize(
                    "CreateFleet",
                    on_launch=True,
                    template=[candidate.template.template_id],
                    subnet=[candidate.subnet.subnet_id],
                    group=security_groups({**data, **candidate.override}),
                    placement_group=[name] if (name := candidate.placement_group) else [],
                    image=[candidate.image],
                    overridden=candidate.overridden,
                    role=[records.role_arn(candidate.profile.role)] if candidate.profile else [],
                    instance_type=[candidate.offer.pool.instance_type],
                    spot_request=["spot-instances-request"] if is_spot(request) else [],
                    missing_role=(
                        [records.SPOT_ROLE]
                        if is_spot(request) and not records.has_spot_role()
                        else []
                    ),
                    tagged=[*tagged, *kinds_tagged_by(data)],
                    tags=[f"{key}={value}" for key, value in tags.items()],
                )
            except ApiError as exc:
                errors[candidate.offer.order] = error_of(candidate, exc.code, exc.message)
        return errors

    def _allocate(self, request: dict[str, Any], candidates: list[Candidate]) -> Allocation:
        target = request["TargetCapacitySpecification"]
        options = request.get("SpotOptions" if is_spot(request) else "OnDemandOptions", {})
        check = check_room(
            {candidate.offer.pool: candidate.placement_group for candidate in candidates},
            self._instances.all(),
            room=self._instances.knobs.placement_group_room,
            quotas=self._quotas.shortage,
        )
        return allocate(
            self._instances.market,
            [candidate.offer for candidate in candidates],
            wanted=target["TotalTargetCapacity"],
            strategy=options.get("AllocationStrategy", "lowest-price"),
            same_type=options.get("SingleInstanceType", False),
            same_zone=options.get("SingleAvailabilityZone", False),
            minimum=options.get("MinTargetCapacity", 0),
            quota_check=check,
        )

    def _launch(self, candidate: Candidate, fleet: Fleet, authorize: Authorize) -> str:
        template = candidate.template.data
        data = block_devices.merged(template, candidate.override)
        tags = {**template_tags(candidate.template.data), **tags_for(fleet.request, "instance")}
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
            account=records.account_id(),
            region=records.region(),
            user_data=decode_user_data(data.get("UserData", "")),
            root=Path(self._instances.home) / "instances" / instance_id,
            private_ip=self._address(candidate.subnet),
            tags=tags,
            architecture=catalog.architecture(candidate.offer.pool.instance_type),
            profile=candidate.profile,
            tags_in_metadata=shows_tags(data),
            shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior", "stop"),
            security_groups=tuple(security_groups(data)),
            placement_group=candidate.placement_group,
            fleet_id=fleet.fleet_id,
            client_token=fleet.request.get("ClientToken", ""),
            disk_scale=block_devices.scale(template, data),
        )
        records.set_tags(instance_id, tags)
        self._volumes.launch(instance, data, tags_for(fleet.request, "volume"))
        self._instances.launch(instance)
        if end := end_of_launch(data, authorize):
            self._instances.terminate(instance, end, grace_seconds=0)
        return instance_id

    def _address(self, subnet: Subnet) -> str:
        number = next(self._addresses)
        first, second, third, _ = subnet.cidr.partition("/")[0].split(".")
        return f"{first}.{second}.{int(third) + number // 250 % 4}.{number % 250 + 4}"

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Describe fleets (DescribeFleets)."""
        wanted = request.get("FleetIds")
        missing = [fleet_id for fleet_id in wanted or [] if fleet_id not in self._all]
        if missing:
            raise ApiError("InvalidFleetId.NotFound", f"No fleet {', '.join(missing)}")
        # Without ids, instant fleets are left out, as on AWS.
        shown, token = page(list(wanted or []), request, least=1)
        fleets = [description_of(self._all[fleet_id], self._instances.all()) for fleet_id in shown]
        return {"Fleets": fleets, "NextToken": token}

    def tags(self) -> dict[str, dict[str, str]]:
        """Return the tags of every fleet; a deleted fleet keeps them for a while, as on AWS."""
        return {fleet_id: fleet.tags for fleet_id, fleet in self._all.items()}

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete fleets (DeleteFleets); the instances of an instant fleet are terminated."""
        if len(request["FleetIds"]) > _MAX_FLEETS_PER_DELETE:
            raise ApiError(
                "InvalidParameterValue",
                f"At most {_MAX_FLEETS_PER_DELETE} fleets of type instant can be deleted "
                "in one request.",
            )
        gone, refused = [], []
        for fleet_id in request["FleetIds"]:
            fleet = self._all.get(fleet_id)
            if fleet is None:
                code, message = "fleetIdDoesNotExist", f"The fleet ID '{fleet_id}' does not exist"
            elif fleet.deleted:
                code = "fleetNotInDeletableState"
                message = f"The fleet '{fleet_id}' is not in a deletable state"
            elif not request["TerminateInstances"]:
                code = "unexpectedError"
                message = "NoTerminateInstances is not supported for instant fleets"
            else:
                gone.append(
                    {
                        "FleetId": fleet_id,
                        "PreviousFleetState": "active",
                        "CurrentFleetState": "deleted_terminating",
                    }
                )
                fleet.deleted = True
                for instance in self._instances.all():
                    if instance.fleet_id == fleet_id:
                        self._instances.terminate(instance, ended_by_user())
                continue
            refused.append({"FleetId": fleet_id, "Error": {"Code": code, "Message": message}})
        return {"SuccessfulFleetDeletions": gone, "UnsuccessfulFleetDeletions": refused}


def _authorize_fleet(request: dict[str, Any], authorize: Authorize) -> dict[str, str]:
    """Check the permissions on the fleet itself; return its tags."""
    tags = tags_for(request, "fleet")
    authorize(
        "CreateFleet",
        template=template_ids(request),
        tagged=["fleet"] if tags else [],
        tags=[f"{key}={value}" for key, value in tags.items()],
    )
    return tags


def _candidates(request: dict[str, Any], authorize: Authorize) -> list[Candidate]:
    """Resolve the overrides, with the permission to read the images' parameters."""
    candidates = list(candidates_of(request))
    images = {item.image_parameter for item in candidates if item.image_parameter}
    authorize("CreateFleet", parameter=sorted(images))
    return candidates
