"""Allocation of a fleet request to pools of the market, and the reasons of those that refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runctl.local.core.market import MESSAGES, Market, Pool


@dataclass(frozen=True)
class Offer:
    """A pool that a request accepts, in the order of the request."""

    pool: Pool
    order: int
    priority: float | None = None
    max_price: float | None = None
    weight: float = 1


@dataclass(frozen=True)
class Refusal:
    """A pool that refused, and the error that EC2 names."""

    offer: Offer
    code: str
    message: str


@dataclass(frozen=True)
class Shortage:
    """The error of EC2 when a pool has no further instance."""

    code: str
    message: str


# Returns why an instance of a pool would exceed the account's quotas, given those granted so far.
QuotaCheck = Callable[[Pool, Sequence[Pool]], Shortage | None]


def _no_quota(_pool: Pool, _granted: Sequence[Pool]) -> Shortage | None:
    return None


@dataclass(frozen=True)
class Allocation:
    """The result of a request: an offer for each instance, and the pools that refused."""

    granted: tuple[Offer, ...]
    refused: tuple[Refusal, ...]


def rank(market: Market, offers: Iterable[Offer], *, strategy: str, wanted: int) -> list[Offer]:
    """Order the offers as the allocation strategy tries them."""

    def by_price(offer: Offer) -> tuple[float, ...]:
        return (market.price(offer.pool), offer.order)

    def by_capacity(offer: Offer) -> tuple[float, ...]:
        return (-market.free(offer.pool), offer.order)

    def by_both(offer: Offer) -> tuple[float, ...]:
        shallow = market.free(offer.pool) < wanted
        return (shallow, *(by_capacity(offer) if shallow else by_price(offer)))

    def by_priority(offer: Offer) -> tuple[float, ...]:
        # No priority counts as the lowest.
        return (float("inf") if offer.priority is None else offer.priority, offer.order)

    keys = {
        "price-capacity-optimized": by_both,
        "capacity-optimized": by_capacity,
        "capacity-optimized-prioritized": by_priority,
        "prioritized": by_priority,
        "diversified": by_capacity,
        "lowest-price": by_price,
    }
    return sorted(offers, key=keys[strategy])


def allocate(
    market: Market,
    offers: Iterable[Offer],
    *,
    wanted: int,
    strategy: str,
    same_type: bool = False,
    same_zone: bool = False,
    minimum: int = 0,
    quota_check: QuotaCheck = _no_quota,
) -> Allocation:
    """Fill a request from the pools, without taking anything from them yet."""
    ranked = rank(market, offers, strategy=strategy, wanted=wanted)
    groups = _groups(ranked, same_type=same_type, same_zone=same_zone)
    tried = [_fill(market, group, wanted, quota_check) for group in groups] or [Allocation((), ())]
    best = max(tried, key=lambda one: sum(offer.weight for offer in one.granted))
    if sum(offer.weight for offer in best.granted) >= max(minimum, 1):
        return best
    # Below the minimum, the fleet launches nothing and names every pool that fell short.
    short = {
        str(refusal.offer.pool): refusal for attempted in tried for refusal in attempted.refused
    }
    return Allocation((), tuple(short.values()))


def _groups(ranked: list[Offer], *, same_type: bool, same_zone: bool) -> list[list[Offer]]:
    groups: dict[tuple[str, str], list[Offer]] = {}
    for offer in ranked:
        key = (
            offer.pool.instance_type if same_type else "",
            offer.pool.zone if same_zone else "",
        )
        groups.setdefault(key, []).append(offer)
    return list(groups.values())


def _fill(market: Market, ranked: list[Offer], wanted: int, quota_check: QuotaCheck) -> Allocation:
    granted: list[Offer] = []
    refused: list[Refusal] = []
    missing = float(wanted)
    for offer in ranked:
        shortage = None
        while missing > 0 and shortage is None:
            shortage = _shortage(market, offer, [offer.pool for offer in granted], quota_check)
            if shortage is None:
                granted.append(offer)
                missing -= offer.weight
        if shortage is not None:
            refused.append(Refusal(offer, shortage.code, shortage.message))
    return Allocation(tuple(granted), tuple(refused))


def _shortage(
    market: Market, offer: Offer, granted: list[Pool], quota_check: QuotaCheck
) -> Shortage | None:
    """Return why an offer gives no further instance; quotas come before capacity."""
    code = _refusal_code(market, offer)
    if code is None and (beyond := quota_check(offer.pool, granted)):
        return beyond
    if code is None and market.free(offer.pool) <= granted.count(offer.pool):
        code = "InsufficientInstanceCapacity"
    return None if code is None else Shortage(code, MESSAGES.get(code, code))


def _refusal_code(market: Market, offer: Offer) -> str | None:
    if code := market.error(offer.pool):
        return code
    if offer.max_price is not None and offer.max_price < market.price(offer.pool):
        return "SpotMaxPriceTooLow"
    return None
