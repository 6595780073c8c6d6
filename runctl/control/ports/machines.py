"""The ports of EC2: fleets, quotas and prices, and commands to the agents on instances."""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.pool import MachineKind, Pool
from runctl.model.quota import VcpuQuota
from runctl.model.root_volume import RootVolume
from runctl.model.type_network import TypeNetwork


class Fleet(Protocol):
    """The part of EC2 that we use. Throttling is retried inside, and then raises TransientError."""

    @property
    def deployment(self) -> str:
        """The name of the deployment."""
        ...

    @property
    def own_images(self) -> Set[MachineKind]:
        """The kinds of machines for which the deployment's owner provides the image."""
        ...

    @property
    def limits(self) -> DeploymentLimits:
        """The limits that the deployment's owner has set."""
        ...

    def root_volumes(self) -> Mapping[MachineKind, RootVolume]:
        """Return the root volumes of the launch templates; empty in an earlier deployment."""
        ...

    def zones(self) -> tuple[str, ...]:
        """Return the availability zones that the deployment has a subnet in."""
        ...

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

        `volumes` replace the root volumes of the launch templates.

        For an attempt with several `nodes`, it is for `count` of them from a single pool, or none
        where there are fewer than `least` (all of them by default). With `placed`, they are placed
        close together, where the type permits that; that may be refused by a pool that has enough
        instances elsewhere in the zone. Raises TransientError when throttled, and RefusedError if
        the deployment is too old for several nodes.
        """
        ...

    def network_of(self, instance_types: Sequence[str]) -> Mapping[str, TypeNetwork]:
        """Return the network of each type that EC2 knows in this region.

        Raises TransientError when throttled.
        """
        ...

    def launch(self, request: str) -> LaunchResult:
        """Send a CreateFleet request verbatim; the same request again gives the same answer.

        Raises RefusedError when nothing would ever be launched, or TransientError when the answer
        was lost. Refusals of pools, including those by quotas and by throttling, are a result.
        """
        ...

    def describe(self, instance_ids: Sequence[str]) -> list[Machine]:
        """Return the machines that EC2 knows; a missing one may be too new."""
        ...

    def statuses(self, instance_ids: Sequence[str]) -> list[MachineStatus]:
        """Return the status checks of those machines that run and that EC2 knows."""
        ...

    def find_by_run(self, run_id: str) -> list[Machine]:
        """Return the machines tagged with the run that are not shut down or shutting down."""
        ...

    def find_all(self) -> list[Machine]:
        """Return the machines of this deployment, and of no other in the account."""
        ...

    def find_lent(self) -> list[Machine]:
        """Return the live machines that carry the tag of lending, to whichever deployment."""
        ...

    def end_lending(self, machine: Machine) -> None:
        """Remove the tag that permits commands to a machine, unless its value has changed."""
        ...

    def terminate(self, instance_ids: Sequence[str]) -> None:
        """Terminate instances, which may already be gone."""
        ...

    def find_fleets(self) -> list[InstantFleet]:
        """Return this deployment's fleets, including the deleted ones that EC2 still shows."""
        ...

    def delete_fleets(self, fleet_ids: Iterable[str]) -> dict[str, str]:
        """Delete fleets and their instances; return the reason for each that was not deleted."""
        ...


class Quotas(Protocol):
    """The account's quotas, looked up after EC2 refused a launch because of one.

    What cannot be read, for lack of a permission, the service or the quota, is omitted.
    """

    def region(self) -> str:
        """Return the region, to which each quota applies."""
        ...

    def allowed(self, quota: VcpuQuota) -> int | None:
        """Return a quota's value in vCPUs, None when it cannot be read."""
        ...

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """Return the number of vCPUs of each instance type that EC2 knows."""
        ...


class Prices(Protocol):
    """The prices of instances."""

    def current(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, Decimal]:
        """Return the current price in USD an hour of those of `pools` whose price is known."""
        ...


class Commands(Protocol):
    """Requests to the agent on an instance, over SSM."""

    def send(self, instance_id: str, action: str, *, deadline: datetime | None = None) -> bool:
        """Ask for `drain`, `checkpoint` or `stop`; False if the SSM agent is not registered.

        `deadline` is when EC2 takes the instance that is to drain, if that is known.
        """
        ...

    def start(self, instance_id: str, *, run_id: str, attempt: int) -> bool:
        """Start the agent for an attempt on an existing instance; False when SSM does not reach it.

        May be repeated: an agent that already works on that attempt is left alone. Raises
        RefusedError, with the reason, when the agent failed to start.
        """
        ...
