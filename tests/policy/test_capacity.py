"""Capacity pools: which are requested, and how long they cool down; which machines may be ended."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.refusal import FAULTS, RACES, SETUP, THROTTLING
from runctl.model.resource_options import MARKETS
from runctl.policy.billing import may_terminate
from runctl.policy.capacity import (
    AFTER_A_RECLAIM,
    candidate_pools,
    choose_pools,
    cooldown,
    markets_of,
)

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
TYPES, ZONES = ("g5.xlarge", "m5.large"), ("a", "b", "c")
POOLS = candidate_pools(TYPES, ZONES, ["spot"])


@pytest.mark.parametrize("market", MARKETS)
def test_a_request_names_its_markets_in_their_order(market):
    assert "-then-".join(markets_of(market)) == market


def test_a_market_of_a_newer_version_has_no_pools():
    assert candidate_pools(TYPES, ZONES, markets_of("reserved")) == ()


def test_every_type_is_requested_in_every_zone_in_the_given_order():
    assert [str(pool) for pool in POOLS] == [
        "g5.xlarge/a/spot",
        "g5.xlarge/b/spot",
        "g5.xlarge/c/spot",
        "m5.large/a/spot",
        "m5.large/b/spot",
        "m5.large/c/spot",
    ]


@given(cooling=st.dictionaries(st.sampled_from(POOLS), st.integers(1, 99)))
def test_something_is_always_requested_and_a_cooling_pool_only_with_all_others(cooling):
    until = {pool: NOW + timedelta(minutes=minutes) for pool, minutes in cooling.items()}
    chosen = choose_pools(POOLS, cooling=until)
    if len(cooling) < len(POOLS):
        assert chosen == tuple(pool for pool in POOLS if pool not in cooling)
    else:
        assert sorted(chosen) == sorted(POOLS)
        assert [until[pool] for pool in chosen] == sorted(until.values())


def test_longer_lasting_causes_cool_a_pool_longer():
    quota, capacity = cooldown("VcpuLimitExceeded"), cooldown("InsufficientInstanceCapacity")
    assert quota < capacity < AFTER_A_RECLAIM < cooldown("Unsupported")


SCARCITY = {
    "InsufficientInstanceCapacity",
    "UnfulfillableCapacity",
    "InsufficientCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "SpotMaxPriceTooLow",
    "InsufficientFreeAddressesInSubnet",
    "MaxSpotInstanceCountExceeded",
    "SpotInstanceCountExceeded",
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "Unsupported",
    "UnsupportedOperation",
    "InvalidFleetConfiguration",
}


@given(
    code=st.sampled_from(sorted(SCARCITY))
    | st.sampled_from(sorted(THROTTLING | FAULTS | RACES | SETUP | {"MaxFleetCountExceeded"}))
    | st.text()
)
def test_only_codes_that_mean_scarcity_cool_a_pool(code):
    time = cooldown(code)
    assert (time is not None) == (code in SCARCITY)
    assert time is None or timedelta(minutes=1) <= time <= timedelta(days=1)


instants = st.integers(-120, 0).map(lambda minutes: NOW + timedelta(minutes=minutes))


@given(launched=st.none() | instants, noticed=st.none() | instants)
def test_after_a_notice_a_machine_is_ours_to_end_only_past_its_first_hour(launched, noticed):
    old = launched is not None and NOW - launched >= timedelta(hours=1)
    allowed = may_terminate(launched_at=launched, noticed_at=noticed, now=NOW)
    assert allowed == (noticed is None or old)
