"""Which pools a launch asks for, try by try, and how long one that said no is left alone."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from runctl.model.errors import RequestError
from runctl.model.pool import Pool
from runctl.model.refusal import RefusalKind, kind_of

_FOR_NOW = timedelta(minutes=10)
# A pool that took a machine back tends to do it again soon.
AFTER_A_RECLAIM = timedelta(minutes=15)
# What is shared by pools, as a quota or a subnet's addresses, another run's end sets free.
_WHILE_SHARED = timedelta(minutes=2)
# The zone does not offer the type at all; zones do gain types, but not within the hour.
_FOR_LONG = timedelta(days=1)

# Nothing else cools a pool: a throttled request, a fault and a code that nobody has listed say
# nothing of it, and neither do errors of the account's set-up.
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
    """Return how long a pool is left alone after an EC2 error code, or None for not at all."""
    return _COOLDOWNS.get(kind_of(cause))


def tries_in_a_round(market: str) -> int:
    """Return how many CreateFleet requests it takes to ask every market once."""
    return len(_markets(market))


def market_of_try(market: str, launch_try: int) -> str:
    """Return the market that the `launch_try`-th request (from 1) asks; they take turns."""
    markets = _markets(market)
    return markets[(launch_try - 1) % len(markets)]


def _markets(market: str) -> tuple[str, ...]:
    if market not in _MARKETS:
        raise RequestError(
            f"market: the run asks for one that this deployment does not know ({market}); deploy "
            "the version of runctl that created the run"
        )
    return _MARKETS[market]


def candidate_pools(
    instance_types: Sequence[str], zones: Sequence[str], *, market: str, launch_try: int
) -> tuple[Pool, ...]:
    """Return every pool that the `launch_try`-th request could ask, types in their given order."""
    asked = market_of_try(market, launch_try)
    return tuple(
        Pool(instance_type, zone, asked) for instance_type in instance_types for zone in zones
    )


def choose_pools(
    candidates: Sequence[Pool], *, cooling: Mapping[Pool, datetime]
) -> tuple[Pool, ...]:
    """Leave out what is cooling down; when that is everything, ask all, soonest first.

    To ask in vain costs one call, not to ask may cost the run half an hour.
    """
    ready = tuple(pool for pool in candidates if pool not in cooling)
    return ready or tuple(sorted(candidates, key=lambda pool: cooling[pool]))
