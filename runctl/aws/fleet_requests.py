"""CreateFleet requests: for one instance from any of several pools, or for nodes from one pool."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runctl.model.errors import RefusedError
from runctl.model.identity import ATTEMPT_TAG, DEPLOYMENT_TAG, NODES_TAG, RUN_TAG, client_token
from runctl.model.pool import MachineKind, Pool, machine_kind
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork


@dataclass(frozen=True, kw_only=True)
class LaunchTemplate:
    """A launch template, at the version that the deployment created."""

    template_id: str
    version: str


@dataclass(frozen=True, kw_only=True)
class GangResources:
    """What nodes that train together are launched from; empty in an earlier deployment.

    `efa_templates` give them an Elastic Fabric Adapter, for the kinds of machines whose image has
    the software for it. `placement_groups` has a cluster placement group for each zone.
    """

    templates: Mapping[MachineKind, LaunchTemplate] = field(default_factory=dict)
    efa_templates: Mapping[MachineKind, LaunchTemplate] = field(default_factory=dict)
    placement_groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FleetRequests:
    """Builds the requests of one deployment; `subnets` has the subnet of each zone."""

    deployment: str
    subnets: Mapping[str, str]
    templates: Mapping[MachineKind, LaunchTemplate]
    gang: GangResources = GangResources()

    @property
    def template_ids(self) -> set[str]:
        """The ids of all templates, by which the fleets of this deployment are recognized."""
        groups = (self.templates, self.gang.templates, self.gang.efa_templates)
        return {template.template_id for group in groups for template in group.values()}

    # The keywords are what a request differs by.
    def build(
        self,
        *,
        run_id: str,
        attempt: int,
        launch_try: int,
        pools: Sequence[Pool],
        volumes: Mapping[MachineKind, RootVolume],
    ) -> str:
        """Return a request (JSON) for an instance from any of the pools, all of one market."""
        request = self._request(run_id, attempt, launch_try, pools=pools, count=1, nodes=1)
        request["LaunchTemplateConfigs"] = list(self._configs(pools, volumes))
        return json.dumps(request, sort_keys=True)

    def build_for_nodes(
        self,
        *,
        run_id: str,
        attempt: int,
        launch_try: int,
        pool: Pool,
        volumes: Mapping[MachineKind, RootVolume],
        count: int,
        least: int,
        nodes: int,
        network: TypeNetwork,
        placed: bool,
    ) -> str:
        """Return a request (JSON) for `count` nodes of an attempt with `nodes`, `least` or none.

        Raises RefusedError if the deployment has no templates for them yet.
        """
        kind = machine_kind(pool.instance_type)
        efa = self.gang.efa_templates if network.uses_efa else {}
        template = efa.get(kind) or self.gang.templates.get(kind)
        if template is None:
            raise RefusedError(
                "the deployment is too old for several nodes; run `cdk deploy --all` of this "
                "version"
            )
        request = self._request(run_id, attempt, launch_try, pools=[pool], count=count, nodes=nodes)
        options = "SpotOptions" if pool.market == "spot" else "OnDemandOptions"
        # EC2 accepts a minimum only together with one of the other two.
        request[options] |= {
            "MinTargetCapacity": least,
            "SingleAvailabilityZone": True,
            "SingleInstanceType": True,
        }
        group = self.gang.placement_groups.get(pool.zone) if network.can_cluster else None
        placement = {"Placement": {"GroupName": group}} if placed and group else {}
        override = self._override(pool, kind, volumes)
        request["LaunchTemplateConfigs"] = [_config(template, [{**override, **placement}])]
        return json.dumps(request, sort_keys=True)

    def _request(
        self,
        run_id: str,
        attempt: int,
        launch_try: int,
        *,
        pools: Sequence[Pool],
        count: int,
        nodes: int,
    ) -> dict[str, Any]:
        """Return what all requests have.

        All pools are of one market: a fleet that may use both markets would not report which pools
        of the first one refused.
        """
        (market,) = {pool.market for pool in pools}
        tags = [
            {"Key": "Name", "Value": f"{run_id}/{attempt}"},
            {"Key": RUN_TAG, "Value": run_id},
            {"Key": ATTEMPT_TAG, "Value": str(attempt)},
            {"Key": DEPLOYMENT_TAG, "Value": self.deployment},
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
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": count,
                "DefaultTargetCapacityType": market,
            },
            "TagSpecifications": [
                {"ResourceType": resource, "Tags": tags}
                for resource in ("fleet", "instance", "volume")
            ],
        }
        if market == "spot":
            request["SpotOptions"] = {
                "AllocationStrategy": "price-capacity-optimized",
                "InstanceInterruptionBehavior": "terminate",
            }
        else:
            request["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
        return request

    def _token_scope(self) -> str:
        """Return the deployment's name and templates.

        A deployment that is destroyed and created again has the same name and other templates. With
        the old tokens, EC2 would refuse its requests as changed for as long as it remembers them.
        """
        templates = sorted(template.template_id for template in self.templates.values())
        return " ".join((self.deployment, *templates))

    def _configs(
        self, pools: Sequence[Pool], volumes: Mapping[MachineKind, RootVolume]
    ) -> Iterator[dict[str, Any]]:
        by_kind: dict[MachineKind, list[Pool]] = {}
        for pool in pools:
            by_kind.setdefault(machine_kind(pool.instance_type), []).append(pool)
        for kind, members in by_kind.items():
            overrides = [self._override(pool, kind, volumes) for pool in members]
            yield _config(self.templates[kind], overrides)

    def _override(
        self, pool: Pool, kind: MachineKind, volumes: Mapping[MachineKind, RootVolume]
    ) -> dict[str, Any]:
        disk = {"BlockDeviceMappings": [_mapping(volumes[kind])]} if kind in volumes else {}
        return {
            "InstanceType": pool.instance_type,
            "SubnetId": self.subnets[pool.zone],
            **disk,
        }


def _config(template: LaunchTemplate, overrides: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "LaunchTemplateSpecification": {
            "LaunchTemplateId": template.template_id,
            "Version": template.version,
        },
        "Overrides": overrides,
    }


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
