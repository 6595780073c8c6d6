"""EC2: instant fleets of one instance, replayed verbatim, and their machines."""

import contextlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws import instant_fleets
from runctl.aws.errors import code_of, translated
from runctl.aws.instance_status import describe_statuses
from runctl.aws.launch_answers import read_answer, refused_call
from runctl.model.identity import (
    ATTEMPT_TAG,
    DEPLOYMENT_TAG,
    KEEP_ALIVE_TAG,
    NODES_TAG,
    RUN_TAG,
    client_token,
)
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.pool import MachineKind, Pool, machine_kind
from runctl.model.root_volume import RootVolume

LIVE_STATES = ("pending", "running", "stopping", "stopped")
MAX_FILTER_VALUES = 200


@dataclass(frozen=True, kw_only=True)
class LaunchTemplate:
    """A launch template, at the version that the deployment created."""

    template_id: str
    version: str


class Ec2Fleet:
    """Implements `runctl.control.ports.Fleet`."""

    def __init__(
        self,
        client: Any,
        *,
        deployment: str,
        subnets: Mapping[str, str],
        launch_templates: Mapping[MachineKind, LaunchTemplate],
        security_group: str = "",
        own_images: Collection[MachineKind] = (),
        root_volumes: Mapping[MachineKind, RootVolume] | None = None,
    ) -> None:
        """`own_images` are the kinds of machines whose image the deployment's owner chose.

        `root_volumes` are those of the launch templates, as far as they are known.
        """
        self._client = client
        self._deployment = deployment
        self.own_images = frozenset(own_images)
        self._root_volumes = dict(root_volumes or {})
        self._security_group = security_group
        self._subnets = dict(subnets)
        self._zones = {subnet: zone for zone, subnet in subnets.items()}
        self._launch_templates = dict(launch_templates)

    def root_volumes(self) -> Mapping[MachineKind, RootVolume]:
        """Return the root volumes of the launch templates; empty in an earlier deployment."""
        return self._root_volumes

    def zones(self) -> tuple[str, ...]:
        """Return the availability zones in which the deployment has a subnet."""
        return tuple(sorted(self._subnets))

    # The keywords are what a request differs by.
    def build_request(
        self,
        *,
        run_id: str,
        attempt: int,
        launch_try: int,
        pools: Sequence[Pool],
        volumes: Mapping[MachineKind, RootVolume] | None = None,
        count: int = 1,
        nodes: int = 1,
    ) -> str:
        """Return the exact CreateFleet request (JSON) for `count` instances, all or none.

        They are nodes of an attempt with `nodes` of them.

        All pools are of one market: a fleet that may use both markets would not report which pools
        of the first one refused. `volumes` replace the root volumes of the launch templates.
        """
        (market,) = {pool.market for pool in pools}
        tags = [
            {"Key": "Name", "Value": f"{run_id}/{attempt}"},
            {"Key": RUN_TAG, "Value": run_id},
            {"Key": ATTEMPT_TAG, "Value": str(attempt)},
            {"Key": DEPLOYMENT_TAG, "Value": self._deployment},
        ]
        if nodes > 1:
            tags.append({"Key": NODES_TAG, "Value": str(nodes)})
        request: dict[str, Any] = {
            "Type": "instant",
            "ClientToken": client_token(
                deployment=self._token_scope(),
                run_id=run_id,
                attempt=attempt,
                launch_try=launch_try,
            ),
            "LaunchTemplateConfigs": list(self._configs(pools, volumes or {})),
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": count,
                "DefaultTargetCapacityType": market,
            },
            "TagSpecifications": [
                {"ResourceType": resource, "Tags": tags}
                for resource in ("fleet", "instance", "volume")
            ],
        }
        # A single zone, because the nodes of an attempt exchange much.
        together = {"MinTargetCapacity": count, "SingleAvailabilityZone": True} if count > 1 else {}
        if market == "spot":
            request["SpotOptions"] = {
                "AllocationStrategy": "price-capacity-optimized",
                "InstanceInterruptionBehavior": "terminate",
                **together,
            }
        else:
            request["OnDemandOptions"] = {"AllocationStrategy": "lowest-price", **together}
        return json.dumps(request, sort_keys=True)

    def _token_scope(self) -> str:
        """Return the deployment's name and templates.

        A deployment that is destroyed and created again has the same name and other templates. With
        the old tokens, EC2 would refuse its requests as changed for as long as it remembers them.
        """
        templates = sorted(template.template_id for template in self._launch_templates.values())
        return " ".join((self._deployment, *templates))

    def _configs(
        self, pools: Sequence[Pool], volumes: Mapping[MachineKind, RootVolume]
    ) -> Iterator[dict[str, Any]]:
        by_kind: dict[MachineKind, list[Pool]] = {}
        for pool in pools:
            by_kind.setdefault(machine_kind(pool.instance_type), []).append(pool)
        for kind, members in by_kind.items():
            template = self._launch_templates[kind]
            disk = {"BlockDeviceMappings": [_mapping(volumes[kind])]} if kind in volumes else {}
            yield {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateId": template.template_id,
                    "Version": template.version,
                },
                "Overrides": [
                    {
                        "InstanceType": pool.instance_type,
                        "SubnetId": self._subnets[pool.zone],
                        **disk,
                    }
                    for pool in members
                ],
            }

    def launch(self, request: str) -> LaunchResult:
        """Send a CreateFleet request verbatim; repeating the request repeats the answer.

        This holds while EC2 remembers the token, and it does not document for how long. A replay
        after that is a new launch: the attempt then has two machines by their tags and one in the
        ledger, and reconciliation terminates the other one. A lost answer and a fault raise
        TransientError, because the fleet may exist. Throttling is a result, because it does not.
        """
        document = json.loads(request)
        with translated():
            try:
                answer = self._client.create_fleet(**document)
            except ClientError as exc:
                return refused_call(exc, document, zones=self._zones)
        return read_answer(answer, document, zones=self._zones)

    def describe(self, instance_ids: Sequence[str]) -> list[Machine]:
        """Return the machines that EC2 knows; a missing one may only be too new.

        They are found by a filter, because an unknown id would fail the whole call.
        """
        ids = iter(instance_ids)
        machines: list[Machine] = []
        while batch := list(itertools.islice(ids, MAX_FILTER_VALUES)):
            machines += self._find([{"Name": "instance-id", "Values": batch}])
        return machines

    def statuses(self, instance_ids: Sequence[str]) -> list[MachineStatus]:
        """Return the status checks of those machines that EC2 knows and that are running."""
        return describe_statuses(self._client, instance_ids)

    def problem_with_types(self, instance_types: Sequence[str]) -> str:
        """Return which types do not exist in this region; empty if EC2 cannot be asked."""
        if not instance_types:
            return ""
        try:
            # Missing permissions and an unreachable EC2 are reported by the launch.
            with contextlib.suppress(BotoCoreError):
                self._client.describe_instance_types(InstanceTypes=list(instance_types))
        except ClientError as exc:
            if code_of(exc) == "InvalidInstanceType":
                message = exc.response["Error"].get("Message", "a type does not exist").rstrip(".")
                return f"{message} in this region; `aws ec2 describe-instance-types` lists all"
        return ""

    def find_by_run(self, run_id: str) -> list[Machine]:
        """Return the machines tagged with the run that are neither terminated nor terminating."""
        return list(
            self._find(
                [
                    {"Name": f"tag:{RUN_TAG}", "Values": [run_id]},
                    {"Name": f"tag:{DEPLOYMENT_TAG}", "Values": [self._deployment]},
                    {"Name": "instance-state-name", "Values": list(LIVE_STATES)},
                ]
            )
        )

    def find_all(self) -> list[Machine]:
        """Return the machines of this deployment, with or without a run.

        Deployments may share a VPC, but never the security group. The group also finds machines
        that an older version launched without a tag of the deployment.
        """
        return list(
            self._find(
                [
                    {"Name": "tag-key", "Values": [RUN_TAG, KEEP_ALIVE_TAG]},
                    {"Name": "instance.group-id", "Values": [self._security_group]},
                    {"Name": "instance-state-name", "Values": list(LIVE_STATES)},
                ]
            )
        )

    def find_fleets(self) -> list[InstantFleet]:
        """Return this deployment's fleets, including deleted ones that EC2 still lists."""
        templates = {template.template_id for template in self._launch_templates.values()}
        return instant_fleets.find_fleets(self._client, templates=templates)

    def delete_fleets(self, fleet_ids: Iterable[str]) -> dict[str, str]:
        """Delete fleets without instances; return the reason for each that was not deleted."""
        return instant_fleets.delete_fleets(self._client, fleet_ids)

    def _find(self, filters: list[dict[str, Any]]) -> Iterator[Machine]:
        with translated():
            pages = self._client.get_paginator("describe_instances").paginate(Filters=filters)
            for page in pages:
                for reservation in page["Reservations"]:
                    yield from map(self._machine, reservation["Instances"])

    def _machine(self, instance: Mapping[str, Any]) -> Machine:
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        return Machine(
            instance_id=instance["InstanceId"],
            state=instance["State"]["Name"],
            pool=Pool(
                instance["InstanceType"],
                instance["Placement"]["AvailabilityZone"],
                cast("str", instance.get("InstanceLifecycle", "on-demand")),
            ),
            reason=instance.get("StateReason", {}).get("Code", ""),
            launched_at=instance.get("LaunchTime"),
            tags=tags,
            is_foreign=tags.get(DEPLOYMENT_TAG, self._deployment) != self._deployment,
        )

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """Terminate instances, which may already be gone.

        They are terminated one by one, because an unknown id fails the whole call.
        """
        for instance_id in instance_ids:
            with translated():
                try:
                    self._client.terminate_instances(InstanceIds=[instance_id])
                except ClientError as exc:
                    if code_of(exc) != "InvalidInstanceID.NotFound":
                        raise


def _mapping(volume: RootVolume) -> dict[str, Any]:
    """Describe a root volume completely: nothing says what EC2 takes from the launch template."""
    key = {"KmsKeyId": volume.key} if volume.key else {}
    return {
        "DeviceName": volume.device,
        "Ebs": {
            "VolumeType": "gp3",
            "VolumeSize": volume.gib,
            "Throughput": volume.throughput,
            "Iops": volume.iops,
            "Encrypted": True,
            "DeleteOnTermination": True,
            **key,
        },
    }
