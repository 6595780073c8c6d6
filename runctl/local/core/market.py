"""The spot market: pools with capacity, prices and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

Lifecycle = Literal["spot", "on-demand"]

# USD per hour, us-east-1, Linux; only the proportions matter here.
ON_DEMAND_PRICES: Mapping[str, float] = {
    "t3.micro": 0.0104, "t3.medium": 0.0416, "t3.large": 0.0832, "t4g.medium": 0.0336,
    "m5.large": 0.096, "m5.xlarge": 0.192, "m5.2xlarge": 0.384, "m5a.large": 0.086,
    "m5n.large": 0.119, "m6i.large": 0.096, "m6i.xlarge": 0.192, "m6a.large": 0.0864,
    "m6g.large": 0.077, "m7i.large": 0.1008, "m7a.large": 0.11592, "m7g.large": 0.0816,
    "c5.large": 0.085, "c5.xlarge": 0.17, "c6i.large": 0.085, "c6a.large": 0.0765,
    "c6g.large": 0.068, "c7i.large": 0.08925, "c7g.large": 0.0725, "r5.large": 0.126,
    "r6i.large": 0.126, "m7i.xlarge": 0.2016, "m7a.xlarge": 0.23184, "m6a.xlarge": 0.1728,
    "m5a.xlarge": 0.172, "c7i.xlarge": 0.1785, "c6i.xlarge": 0.17, "c6a.xlarge": 0.153,
    "r6i.xlarge": 0.252, "m7g.xlarge": 0.1632, "c7g.xlarge": 0.145, "c5n.large": 0.108,
    "c5n.18xlarge": 3.888,
    "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752, "g4dn.8xlarge": 2.176, "g4dn.12xlarge": 3.912,
    "g5.xlarge": 1.006, "g5.2xlarge": 1.212, "g5.8xlarge": 2.448, "g5.12xlarge": 5.672,
    "g5.48xlarge": 16.288,
    "g6.xlarge": 0.8048, "g6.2xlarge": 0.9776, "p3.2xlarge": 3.06, "p3.8xlarge": 12.24,
    "p3.16xlarge": 24.48, "p4d.24xlarge": 32.7726, "p5.48xlarge": 98.32,
}  # fmt: skip
_SPOT_SHARE = 0.35
_UNKNOWN_PRICE = 0.10
_PLENTY = 100


@dataclass(frozen=True, order=True)
class Pool:
    """A capacity pool: an instance type in a zone, in one market."""

    instance_type: str
    zone: str
    lifecycle: Lifecycle = "spot"

    @classmethod
    def parse(cls, text: str) -> Pool:
        """Parse `m5.large/us-east-1a/spot`."""
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{text!r} is not a pool such as m5.large/us-east-1a/spot")
        instance_type, zone, lifecycle = parts
        if lifecycle not in {"spot", "on-demand"}:
            raise ValueError(f"{text!r}: a pool must end in /spot or /on-demand")
        return cls(instance_type, zone, cast("Lifecycle", lifecycle))

    def __str__(self) -> str:
        return f"{self.instance_type}/{self.zone}/{self.lifecycle}"


MESSAGES: Mapping[str, str] = {
    "InsufficientInstanceCapacity": "There is no capacity available that matches your request.",
    "UnfulfillableCapacity": "Unable to fulfill capacity due to your request configuration.",
    "SpotMaxPriceTooLow": "Your Spot request price is lower than the minimum required price.",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
    "VcpuLimitExceeded": "You have requested more vCPUs than your current limit allows.",
    "InsufficientFreeAddressesInSubnet": "The subnet has not enough free addresses.",
    "Unsupported": "The requested configuration is currently not supported.",
}


# Others can be set as well: these serve to find misspelled ones.
ERROR_CODES = frozenset(MESSAGES) | {
    "InsufficientCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
    "InstanceLimitExceeded", "MaxFleetCountExceeded", "InvalidFleetConfiguration",
    "UnsupportedOperation", "RequestLimitExceeded", "UnauthorizedOperation", "InternalError",
    "ServiceLinkedRoleCreationNotPermitted", "InvalidParameterValue",
}  # fmt: skip


@dataclass
class Market:
    """What every pool holds now; tests and demonstrations set it.

    The defaults apply to pools without settings of their own, whichever were set first.
    """

    default_capacity: int = _PLENTY
    default_error: str | None = None
    capacities: dict[Pool, int] = field(default_factory=dict)
    errors: dict[Pool, str | None] = field(default_factory=dict)
    prices: dict[Pool, float] = field(default_factory=dict)
    in_use: dict[Pool, int] = field(default_factory=dict)

    def reset(self) -> None:
        """Reset what tests set; what is in use stays in use."""
        self.default_capacity, self.default_error = _PLENTY, None
        for settings in (self.capacities, self.errors, self.prices):
            settings.clear()

    def set_supply(self, pool: Pool | None, capacity: int | None, error: str | None) -> None:
        """Set a pool's capacity (None keeps it) and error; without a pool, those of all others."""
        if pool is None:
            self.default_error = error
            if capacity is not None:
                self.default_capacity = capacity
            return
        self.errors[pool] = error
        if capacity is not None:
            self.capacities[pool] = capacity

    def error(self, pool: Pool) -> str | None:
        """Return the error that a pool answers."""
        if pool in self.errors or pool in self.capacities:
            return self.errors.get(pool)
        return self.default_error

    def free(self, pool: Pool) -> int:
        """Return how many more instances the pool has."""
        return max(0, self.capacities.get(pool, self.default_capacity) - self.in_use.get(pool, 0))

    def price(self, pool: Pool) -> float:
        """Return the price of an hour in the pool now."""
        if pool in self.prices:
            return self.prices[pool]
        on_demand = ON_DEMAND_PRICES.get(pool.instance_type, _UNKNOWN_PRICE)
        if pool.lifecycle == "on-demand":
            return on_demand
        # Zones differ a little, so that "the cheapest" is unambiguous.
        return round(on_demand * (_SPOT_SHARE + 0.01 * (ord(pool.zone[-1]) - ord("a"))), 4)

    def take(self, pool: Pool) -> None:
        """Count one more instance in the pool."""
        self.in_use[pool] = self.in_use.get(pool, 0) + 1

    def give_back(self, pool: Pool) -> None:
        """Count one instance less in the pool."""
        self.in_use[pool] = max(0, self.in_use.get(pool, 0) - 1)
