"""EC2 as the control functions see it: instances, prices and quotas that a test sets."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from runctl.control.ports.services import Clock
from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import RefusedError, TransientError
from runctl.model.identity import ATTEMPT_TAG, EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG, client_token
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.pool import MachineKind, Pool
from runctl.model.quota import VcpuQuota
from runctl.model.refusal import fatal_code
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork


class FakeFleet:
    """EC2 with the capacity that a test sets; the same request gets the same response."""

    deployment = "runctl"

    def __init__(self, clock: Clock, *, zones: Sequence[str] = ("us-east-1a",)) -> None:
        self._clock = clock
        self.stuck: set[str] = set()
        self._zones = tuple(zones)
        self.own_images: frozenset[MachineKind] = frozenset()
        self.limits = DeploymentLimits()
        self.volumes: dict[MachineKind, RootVolume] = {}
        self.networks: dict[str, TypeNetwork] = {}
        self.machines: dict[str, Machine] = {}
        self.fleets: dict[str, InstantFleet] = {}
        self.refusals: dict[Pool, str] = {}
        # How many machines a pool has at once, as far as that is limited; a placement group has
        # none if it is crowded.
        self.room: dict[Pool, int] = {}
        self.is_crowded = False
        self.call_error = ""
        self.answers: dict[str, LaunchResult] = {}
        self.requests: list[str] = []
        self.terminated: list[str] = []
        self.hidden: set[str] = set()
        self.impaired: dict[str, MachineStatus] = {}
        self.asked_for_statuses: list[list[str]] = []

    def find_lent(self) -> list[Machine]:
        return [
            each for each in self.machines.values() if each.is_live and EXISTING_TAG in each.tags
        ]

    def end_lending(self, machine: Machine) -> None:
        if machine.instance_id in self.stuck:
            raise TransientError("throttled")
        known = self.machines[machine.instance_id]
        if known.tags[EXISTING_TAG] == machine.tags[EXISTING_TAG]:
            self.machines[machine.instance_id] = known.without_tag(EXISTING_TAG)

    def statuses(self, instance_ids: Sequence[str]) -> list[MachineStatus]:
        self.asked_for_statuses.append(list(instance_ids))
        return [
            self.impaired.get(machine.instance_id, MachineStatus(instance_id=machine.instance_id))
            for machine in self.describe(instance_ids)
            if machine.state == "running"
        ]

    def zones(self) -> tuple[str, ...]:
        return self._zones

    def root_volumes(self) -> dict[MachineKind, RootVolume]:
        return self.volumes

    def network_of(self, instance_types: Sequence[str]) -> dict[str, TypeNetwork]:
        return {name: self.networks[name] for name in instance_types if name in self.networks}

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
        assert nodes == 1 or len(pools) == 1, "a gang is launched in one pool"
        return json.dumps(
            {
                "disks": {kind.value: volume.gib for kind, volume in (volumes or {}).items()},
                "token": client_token(
                    deployment="runctl", run_id=run_id, attempt=attempt, launch_try=launch_try
                ),
                "run_id": run_id,
                "attempt": attempt,
                "pools": [str(pool) for pool in pools],
                "count": count,
                "least": least or count,
                "nodes": nodes,
                "placed": placed,
            }
        )

    def launch(self, request: str) -> LaunchResult:
        self.requests.append(request)
        document = json.loads(request)
        pools = [Pool.parse(text) for text in document["pools"]]
        (market,) = {pool.market for pool in pools}
        if self.call_error:
            # As for a throttled call: no fleet is created, and the token is not remembered.
            codes = dict.fromkeys(pools, self.call_error)
            return LaunchResult(instance_ids=(), pool=None, refusals=codes, market=market)
        if document["token"] in self.answers:
            return self.answers[document["token"]]
        refused = {pool: self.refusals[pool] for pool in pools if pool in self.refusals}
        least = document["least"]
        refused |= {
            pool: "InsufficientInstanceCapacity"
            for pool in pools
            if self.room.get(pool, least) < least or (document["placed"] and self.is_crowded)
        }
        granted = next((pool for pool in pools if pool not in refused), None)
        count = 0 if granted is None else self.room.get(granted, document["count"])
        count = min(count, document["count"])
        ids: tuple[str, ...] = ()
        if granted is not None:
            known = len(self.machines)
            ids = tuple(f"i-{known + at + 1:04d}" for at in range(count))
            for instance_id in ids:
                self.machines[instance_id] = Machine(
                    instance_id=instance_id,
                    state="running",
                    pool=granted,
                    launched_at=self._clock.now(),
                    tags={RUN_TAG: document["run_id"], ATTEMPT_TAG: str(document["attempt"])},
                )
        if granted is None and (code := fatal_code(refused.values())):
            raise RefusedError(code)
        fleet_id = f"fleet-{len(self.fleets) + 1:04d}"
        self.fleets[fleet_id] = InstantFleet(
            fleet_id=fleet_id,
            run_id=document["run_id"],
            attempt=document["attempt"],
            state="active",
            created_at=self._clock.now(),
            instance_ids=ids,
        )
        answer = LaunchResult(
            instance_ids=ids, pool=granted, refusals=refused, market=market, fleet_id=fleet_id
        )
        self.answers[document["token"]] = answer
        return answer

    def describe(self, instance_ids: Sequence[str]) -> list[Machine]:
        return [
            self.machines[instance_id]
            for instance_id in instance_ids
            if instance_id in self.machines and instance_id not in self.hidden
        ]

    def find_by_run(self, run_id: str) -> list[Machine]:
        return [
            machine
            for machine in self.machines.values()
            if machine.tags.get(RUN_TAG) == run_id
            and machine.is_live
            and machine.instance_id not in self.hidden
        ]

    def find_all(self) -> list[Machine]:
        return [
            machine
            for machine in self.machines.values()
            if {RUN_TAG, KEEP_ALIVE_TAG} & set(machine.tags)
            and machine.is_live
            and machine.instance_id not in self.hidden
        ]

    def terminate(self, instance_ids: Sequence[str]) -> None:
        for instance_id in instance_ids:
            self.terminated.append(instance_id)
            self.end(instance_id, reason="Client.UserInitiatedShutdown")

    def find_fleets(self) -> list[InstantFleet]:
        return list(self.fleets.values())

    def delete_fleets(self, fleet_ids: Iterable[str]) -> dict[str, str]:
        for fleet_id in fleet_ids:
            self.fleets[fleet_id] = replace(self.fleets[fleet_id], state="deleted_terminating")
            self.terminate(
                [
                    instance_id
                    for instance_id in self.fleets[fleet_id].instance_ids
                    if self.machines[instance_id].is_live
                ]
            )
        return {}

    def end(self, instance_id: str, *, reason: str) -> None:
        machine = self.machines.get(instance_id)
        if machine is not None and machine.is_live:
            self.machines[instance_id] = replace(machine, state="terminated", reason=reason)

    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.is_live]


class FakePrices:
    """The prices that a test sets, in USD an hour."""

    def __init__(self) -> None:
        self.known: dict[Pool, Decimal] = {}

    def current(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, Decimal]:
        return {pool: self.known[pool] for pool in pools if pool in self.known}


class FakeQuotas:
    """The vCPUs that a test sets; types have 4 by default."""

    def __init__(self) -> None:
        self.values: dict[str, int | None] = {}
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []

    def region(self) -> str:
        return "us-east-1"

    def allowed(self, quota: VcpuQuota) -> int | None:
        self.asked.append(quota.code)
        return self.values.get(quota.code)

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        return {kind: self.sizes.get(kind, 4) for kind in instance_types}
