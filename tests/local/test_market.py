"""Which pools a request is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.local.core.allocation import Allocation, Offer, allocate
from runctl.local.core.market import Market, Pool

A, B, C = (Pool("m5.large", f"us-east-1{zone}") for zone in "abc")


def offers(*pools: Pool, **fields: object) -> list[Offer]:
    return [Offer(pool, order, **fields) for order, pool in enumerate(pools)]  # type: ignore[arg-type]


def given_pools(allocation: Allocation) -> list[Pool]:
    return [offer.pool for offer in allocation.granted]


def test_the_cheapest_pool_that_is_deep_enough_wins() -> None:
    market = Market(capacities={A: 1, B: 9, C: 9}, prices={A: 0.01, B: 0.03, C: 0.02})
    got = allocate(market, offers(A, B, C), wanted=2, strategy="price-capacity-optimized")
    assert given_pools(got) == [C, C]


def test_what_one_pool_lacks_comes_from_the_next_and_the_error_is_reported() -> None:
    market = Market(capacities={A: 1, B: 5}, prices={A: 0.01, B: 0.02})
    got = allocate(market, offers(A, B), wanted=3, strategy="lowest-price")
    assert given_pools(got) == [A, B, B]
    assert [(refusal.offer.pool, refusal.code) for refusal in got.refused] == [
        (A, "InsufficientInstanceCapacity")
    ]


def test_priorities_decide_when_the_strategy_says_so() -> None:
    ranked = [Offer(A, 0, priority=2), Offer(B, 1), Offer(C, 2, priority=1)]
    got = allocate(Market(), ranked, wanted=1, strategy="capacity-optimized-prioritized")
    assert given_pools(got) == [C]


def test_a_pool_above_the_maximum_price_is_refused() -> None:
    market = Market(prices={A: 0.5})
    got = allocate(market, offers(A, max_price=0.4), wanted=1, strategy="lowest-price")
    assert got.granted == ()
    assert [refusal.code for refusal in got.refused] == ["SpotMaxPriceTooLow"]


@pytest.mark.parametrize("code", ["MaxSpotInstanceCountExceeded", "Unsupported"])
def test_a_pool_with_an_error_returns_it(code: str) -> None:
    got = allocate(Market(errors={A: code}), offers(A), wanted=1, strategy="lowest-price")
    assert [refusal.code for refusal in got.refused] == [code]


def test_below_the_minimum_nothing_is_launched() -> None:
    market = Market(capacities={A: 2, B: 3})
    got = allocate(
        market, offers(A, B), wanted=4, minimum=4, same_zone=True, strategy="lowest-price"
    )
    assert got.granted == ()
    assert {refusal.offer.pool for refusal in got.refused} == {A, B}


def test_one_zone_that_holds_the_minimum_is_found() -> None:
    market = Market(capacities={A: 2, B: 4}, prices={A: 0.01, B: 0.9})
    got = allocate(
        market, offers(A, B), wanted=4, minimum=4, same_zone=True, strategy="lowest-price"
    )
    assert given_pools(got) == [B] * 4


@given(
    capacities=st.tuples(*[st.integers(0, 5)] * 3),
    prices=st.tuples(*[st.floats(0.01, 1)] * 3),
    wanted=st.integers(1, 12),
    strategy=st.sampled_from(["price-capacity-optimized", "capacity-optimized", "lowest-price"]),
)
def test_allocation_exceeds_neither_supply_nor_demand(
    capacities: tuple[int, ...], prices: tuple[float, ...], wanted: int, strategy: str
) -> None:
    pools = dict(zip((A, B, C), capacities, strict=True))
    market = Market(capacities=dict(pools), prices=dict(zip((A, B, C), prices, strict=True)))
    got = given_pools(allocate(market, offers(A, B, C), wanted=wanted, strategy=strategy))
    assert len(got) == min(wanted, sum(capacities))
    assert all(got.count(pool) <= held for pool, held in pools.items())


def test_a_pool_survives_formatting_and_parsing() -> None:
    assert str(Pool.parse("m5.large/us-east-1a/spot")) == "m5.large/us-east-1a/spot"
    with pytest.raises(ValueError, match="/spot or /on-demand"):
        Pool.parse("m5.large/us-east-1a/reserved")
