"""EC2: instant fleets, replayed verbatim, and their machines."""

import contextlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws import instant_fleets
from runctl.aws.errors import code_of, translated
from runctl.aws.fleet_requests import FleetRequests, GangResources, LaunchTemplate
from runctl.aws.instance_status import describe_statuses
from runctl.aws.launch_answers import read_answer, refused_call
from runctl.aws.type_networks import describe_networks
from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.identity import (
    DEPLOYMENT_TAG,
    EXISTING_TAG,
    KEEP_ALIVE_TAG,
    RUN_TAG,
)
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.pool import MachineKind, Pool
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork

LIVE_STATES = ("pending", "running", "stopping", "stopped")
MAX_FILTER_VALUES = 200


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
        gang: GangResources | None = None,
        limits: DeploymentLimits | None = None,
        own_images: Collection[MachineKind] = (),
        root_volumes: Mapping[MachineKind, RootVolume] | None = None,
    ) -> None:
        """`own_images` are the kinds of machines whose image the deployment's owner chose.

        `root_volumes` are those of the launch templates, as far as they are known.
        """
        self._client = client
        self.deployment = deployment
        self.own_images = frozenset(own_images)
        self.limits = limits or DeploymentLimits()
        self._root_volumes = dict(root_volumes or {})
        self._security_group = security_group
        self._zones = {subnet: zone for zone, subnet in subnets.items()}
        self._requests = FleetRequests(
            deployment=deployment,
            subnets=dict(subnets),
            templates=dict(launch_templates),
            gang=gang or GangResources(),
        )
        self._networks: dict[str, TypeNetwork] = {}

    def root_volumes(self) -> Mapping[MachineKind, RootVolume]:
        """Return the root volumes of the launch templates; empty in an earlier deployment."""
        return self._root_volumes

    def zones(self) -> tuple[str, ...]:
        """Return the availability zones in which the deployment has a subnet."""
        return tuple(sorted(self._requests.subnets))

    def network_of(self, instance_types: Sequence[str]) -> dict[str, TypeNetwork]:
        """Return the network of each type that EC2 knows; each is looked up once."""
        missing = [name for name in instance_types if name not in self._networks]
        self._networks |= describe_networks(self._client, missing)
        return {name: self._networks[name] for name in instance_types if name in self._networks}

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
        least: int = 0,
        nodes: int = 1,
        placed: bool = False,
    ) -> str:
        """Return the exact CreateFleet request (JSON) for an instance from any of the pools.

        All pools are of one market. `volumes` replace the root volumes of the launch templates.

        For an attempt with several `nodes`, it is for `count` of them from a single pool, or none
        where there are fewer than `least` (all of them by default). They get an Elastic Fabric
        Adapter if the type has one. With `placed`, they are placed close together, where the type
        permits that: in the placement group of the zone, which may lack capacity that the zone has.
        A type that EC2 does not know is left to the launch.
        """
        if nodes == 1:
            return self._requests.build(
                run_id=run_id,
                attempt=attempt,
                launch_try=launch_try,
                pools=pools,
                volumes=volumes or {},
            )
        (pool,) = pools
        network = self.network_of([pool.instance_type]).get(pool.instance_type, TypeNetwork())
        return self._requests.build_for_nodes(
            run_id=run_id,
            attempt=attempt,
            launch_try=launch_try,
            pool=pool,
            volumes=volumes or {},
            count=count,
            least=least or count,
            nodes=nodes,
            network=network,
            placed=placed,
        )

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
                    {"Name": f"tag:{DEPLOYMENT_TAG}", "Values": [self.deployment]},
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

    def find_lent(self) -> list[Machine]:
        """Return the live machines that carry the tag of lending, to whichever deployment."""
        return list(
            self._find(
                [
                    {"Name": "tag-key", "Values": [EXISTING_TAG]},
                    {"Name": "instance-state-name", "Values": list(LIVE_STATES)},
                ]
            )
        )

    def end_lending(self, machine: Machine) -> None:
        """Remove the tag that permits commands to a machine.

        EC2 keeps a tag whose value has changed since: its owner has just renewed it.
        """
        tag = {"Key": EXISTING_TAG, "Value": machine.tags[EXISTING_TAG]}
        with translated():
            try:
                self._client.delete_tags(Resources=[machine.instance_id], Tags=[tag])
            except ClientError as exc:
                if code_of(exc) != "InvalidInstanceID.NotFound":
                    raise

    def find_fleets(self) -> list[InstantFleet]:
        """Return this deployment's fleets, including deleted ones that EC2 still lists."""
        templates = self._requests.template_ids
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
            is_foreign=tags.get(DEPLOYMENT_TAG, self.deployment) != self.deployment,
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
