"""The launch plan of a gang: one pool after the other, and what follows when all have refused."""

from dataclasses import replace
from datetime import timedelta
from itertools import takewhile

import pytest

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.quota import quota_of
from runctl.model.request_parsing import parse_request
from runctl.model.run import KeptNode, Run
from runctl.policy.gang import GangPlan
from runctl.policy.gang_launch import MAX_REQUESTS, plan_launch
from runctl.policy.launch_plan import (
    GangRequest,
    Keep,
    Launch,
    Observation,
    Refuse,
    Wait,
)
from runctl.policy.launch_round import QuotaFacts
from tests.policy.test_gang import NOW
from tests.policy.test_launch_plan import an_attempt

ZONES = ("us-east-1a", "us-east-1b")
TYPES = ("g5.xlarge", "g4dn.xlarge")
REFUSAL = "InsufficientInstanceCapacity"
SURVIVORS = tuple(KeptNode(f"i-{at}", "g4dn.xlarge/us-east-1b/spot") for at in range(4))


def gang(*, kept=0, missing=4, needed=None, fewest=4, **values):
    needed = missing if needed is None else needed
    until = NOW + timedelta(minutes=10) if kept else None
    return GangPlan(
        nodes=4,
        fewest=fewest,
        missing=missing,
        needed=needed,
        kept=SURVIVORS[:kept],
        **{"repair_until": until, **values},
    )


def observed(plan, *, market="spot", types=TYPES, zones=ZONES, **facts):
    request = {"command": ["a"], "instance_types": list(types), "market": market, "nodes": 4}
    run = Run(
        run_id="run-1",
        request=parse_request(request),
        started_at=NOW,
        execution="run-1",
        execution_arn="arn",
    )
    facts = {"attempts": (), **facts}
    return Observation(run=run, zones=zones, now=NOW, gang=plan, **facts)


def refused(observation, plan, code=REFUSAL):
    """Return what is known after another refusal."""
    tried = (*observation.tried, GangRequest(plan.pools[0], plan.is_placed))
    refusals = {**observation.refusals, plan.pools[0]: code}
    return replace(observation, tried=tried, refusals=refusals)


def steps(observation, code=REFUSAL):
    """Yield the plans of a round in which everything is refused, the last one included."""
    while isinstance(plan := plan_launch(observation), Launch):
        yield plan
        observation = refused(observation, plan, code)
    yield plan


def requests(observation):
    launches = takewhile(lambda plan: isinstance(plan, Launch), steps(observation))
    return [(str(plan.pools[0]), plan.is_placed) for plan in launches]


def test_one_pool_is_asked_after_the_other_first_with_its_placement_group():
    pools = [f"{name}/{zone}/spot" for name in TYPES for zone in ZONES]
    assert requests(observed(gang())) == [
        *((pool, True) for pool in pools),
        *((pool, False) for pool in pools),
    ]


def test_the_second_market_follows_the_first():
    found = requests(observed(gang(), market="spot-then-on-demand"))
    assert [pool.rsplit("/", 1)[1] for pool, _ in found] == ["spot"] * 8 + ["on-demand"] * 8


def test_a_launch_requests_all_machines_at_once_and_a_missing_spare_is_accepted():
    plan = plan_launch(observed(gang(missing=5, needed=4)))
    assert (plan.count, plan.least, plan.kept) == (5, 4, ())
    assert plan.reason == "5 machines of g5.xlarge/us-east-1a/spot"


def test_a_repair_asks_only_the_zone_of_the_survivors_and_their_type_first():
    observation = observed(gang(kept=3, missing=1))
    assert requests(observation) == [
        ("g4dn.xlarge/us-east-1b/spot", True),
        ("g5.xlarge/us-east-1b/spot", True),
        ("g4dn.xlarge/us-east-1b/spot", False),
        ("g5.xlarge/us-east-1b/spot", False),
    ]
    plan = plan_launch(observation)
    assert (plan.count, plan.least, plan.kept) == (1, 1, SURVIVORS[:3])
    assert plan.reason.startswith("1 of 4 machines of g4dn.xlarge/us-east-1b/spot")


def test_the_pool_that_took_a_machine_is_asked_again_in_a_repair():
    took = Pool.parse(SURVIVORS[0].pool)
    cooling = {took: NOW + timedelta(minutes=15)}
    assert plan_launch(observed(gang(kept=3, missing=1), cooling=cooling)).pools == (took,)
    assert took not in {Pool.parse(pool) for pool, _ in requests(observed(gang(), cooling=cooling))}


def test_a_pool_that_began_to_cool_in_this_round_is_asked_without_its_placement_group():
    first = plan_launch(observed(gang()))
    observation = refused(observed(gang()), first)
    cooling = {first.pools[0]: NOW + timedelta(minutes=10)}
    assert (str(first.pools[0]), False) in requests(replace(observation, cooling=cooling))


def test_if_all_pools_cool_down_all_are_asked():
    pools = [Pool(name, zone, "spot") for name in TYPES for zone in ZONES]
    cooling = {pool: NOW + timedelta(minutes=9 - at) for at, pool in enumerate(pools)}
    plan = plan_launch(observed(gang(), cooling=cooling))
    assert plan.pools == (pools[-1],)


def test_a_rejected_placement_group_is_left_out():
    found = requests(observed(gang(), is_unplaceable=True))
    assert len(found) == 4
    assert not any(is_placed for _, is_placed in found)


def test_a_round_has_a_limit():
    types = [f"g5.{size}xlarge" for size in range(2, 25)]
    assert len(requests(observed(gang(), types=types))) == MAX_REQUESTS


def test_nothing_is_requested_if_nobody_is_missing():
    plan = plan_launch(observed(gang(kept=4, missing=0)))
    assert plan == Keep(kept=SURVIVORS, reason="all 4 machines go on")


def test_a_refused_spare_delays_nothing():
    *launches, last = steps(observed(gang(kept=4, missing=1, needed=0)))
    assert len(launches) == 1
    assert last == Keep(kept=SURVIVORS, reason="without 1 spares, which EC2 refused")


def test_enough_survivors_go_on_after_one_refused_round():
    *launches, last = steps(observed(gang(kept=3, missing=1, fewest=2)))
    assert len(launches) == 4
    assert last == Keep(kept=SURVIVORS[:3], reason="3 of 4 nodes, without the others")


def test_enough_survivors_go_on_if_the_request_is_rejected():
    plan = plan_launch(observed(gang(kept=3, missing=1, fewest=2), denial="no permission"))
    assert isinstance(plan, Keep)
    assert plan_launch(observed(gang(kept=1, missing=3, fewest=2), denial="no permission")) == (
        Refuse(reason="the launch was refused: no permission")
    )


def test_too_few_survivors_wait_but_not_beyond_the_time_of_their_repair():
    *_, last = steps(observed(gang(kept=3, missing=1)))
    assert isinstance(last, Wait)
    assert last.until == NOW + timedelta(seconds=30)
    soon = NOW + timedelta(seconds=10)
    *_, last = steps(observed(gang(kept=3, missing=1, repair_until=soon)))
    assert last.until == soon


def test_a_quota_that_is_smaller_than_all_nodes_is_final_and_the_message_has_the_numbers():
    quota = quota_of("g5.xlarge", "spot")
    facts = QuotaFacts(
        region="us-east-1", allowed={quota: 12}, vcpus={"g5.xlarge": 4, "g4dn.xlarge": 4}
    )
    *_, last = steps(observed(gang(), quotas=facts), code="MaxSpotInstanceCountExceeded")
    assert isinstance(last, Refuse)
    assert "is 12 vCPUs in us-east-1" in last.reason
    assert "16 vCPUs for 4 nodes of g4dn.xlarge, 4 each" in last.reason
    assert last.reason.endswith("or name types of other families, or fewer nodes")


def test_a_quota_that_others_use_up_is_waited_for():
    quota = quota_of("g5.xlarge", "spot")
    facts = QuotaFacts(allowed={quota: 16}, vcpus={"g5.xlarge": 4, "g4dn.xlarge": 4})
    *_, last = steps(observed(gang(), quotas=facts), code="MaxSpotInstanceCountExceeded")
    assert isinstance(last, Wait)


def test_a_type_that_the_run_had_before_is_waited_for():
    before = (an_attempt(1, launched=True, ended=Outcome(kind=OutcomeKind.LOST)),)
    *_, last = steps(observed(gang(), attempts=before), code="Unsupported")
    assert isinstance(last, Wait)
    *_, last = steps(observed(gang()), code="Unsupported")
    assert isinstance(last, Refuse)


@pytest.mark.parametrize("is_gang", [True, False])
def test_a_market_of_a_newer_version_is_refused(is_gang):
    known = observed(gang() if is_gang else None)
    resources = replace(known.run.request.resources, market="reserved")
    request = replace(known.run.request, resources=resources)
    plan = plan_launch(replace(known, run=replace(known.run, request=request)))
    assert "market: reserved" in plan.reason
