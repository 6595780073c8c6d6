"""Capacity pools: the choice for a launch, and how long a pool that refused is left out."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from runctl.model.pool import Pool
from runctl.model.refusal import RefusalKind, kind_of

_FOR_NOW = timedelta(minutes=10)
# A pool that took a machine back tends to do it again soon.
AFTER_A_RECLAIM = timedelta(minutes=15)
# Pools share a quota and the addresses of a subnet; the end of any run can free some.
_WHILE_SHARED = timedelta(minutes=2)
# The zone does not offer the type at all. Zones gain types, but not within an hour.
_FOR_LONG = timedelta(days=1)

# Nothing else cools a pool: throttling, faults, unlisted codes and errors in the account's setup
# say nothing about it.
_COOLDOWNS = {
    RefusalKind.CAPACITY: _FOR_NOW,
    RefusalKind.PRICE: _FOR_NOW,
    RefusalKind.ADDRESSES: _WHILE_SHARED,
    RefusalKind.QUOTA: _WHILE_SHARED,
    RefusalKind.UNSUPPORTED: _FOR_LONG,
}

_MARKETS = {
    "spot": ("spot",),
    "on-demand": ("on-demand",),
    "spot-then-on-demand": ("spot", "on-demand"),
}


def cooldown(cause: str) -> timedelta | None:
    """Return how long a pool cools down after an EC2 error code; None if it does not."""
    return _COOLDOWNS.get(kind_of(cause))


def markets_of(market: str) -> tuple[str, ...]:
    """Return the markets that a request allows, in the order in which they are asked.

    Empty for a market that only a newer version knows.
    """
    return _MARKETS.get(market, ())


def candidate_pools(
    instance_types: Sequence[str], zones: Sequence[str], markets: Sequence[str]
) -> tuple[Pool, ...]:
    """Return every pool of the given markets, types in their given order."""
    return tuple(
        Pool(instance_type, zone, market)
        for market in markets
        for instance_type in instance_types
        for zone in zones
    )


def choose_pools(
    candidates: Sequence[Pool], *, cooling: Mapping[Pool, datetime]
) -> tuple[Pool, ...]:
    """Leave out the pools that are cooling down; if all are, return all, soonest first.

    A request in vain costs one call. Not sending it may cost the run half an hour.
    """
    ready = tuple(pool for pool in candidates if pool not in cooling)
    return ready or tuple(sorted(candidates, key=lambda pool: cooling[pool]))
