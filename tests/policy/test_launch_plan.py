"""The launch plan: which market and pools are requested, and when a launch waits or is refused."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.kinds import KINDS, TRAIN, KindPolicy
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.request_parsing import parse_request
from runctl.model.resource_options import MARKETS
from runctl.model.run import AttemptStage, Run
from runctl.policy.capacity import markets_of
from runctl.policy.launch_plan import (
    MAX_BACKOFF,
    MAX_RETRY_DELAY,
    Launch,
    Observation,
    Refuse,
    Wait,
    backoff,
    plan_launch,
    remaining_wait,
)
from tests.attempts import make_attempt

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
ZONES = ("us-east-1a", "us-east-1b")
NO_CAPACITY = Outcome(kind=OutcomeKind.NO_CAPACITY)
UNANSWERED = replace(NO_CAPACITY, retry_soon=True)
FAILED = Outcome(kind=OutcomeKind.FAILED, exit_code=1)
TRAIN_POLICY = KINDS[TRAIN]
SERVICE = KindPolicy(retries_failures=False, restarts_indefinitely=True, may_overlap=True)
REFUSAL = "InsufficientInstanceCapacity"


def an_attempt(number, *, launched=False, ended=NO_CAPACITY):
    return make_attempt(
        number,
        stage=AttemptStage.ENDED,
        instance_id=f"i-{number}" if launched else "",
        ended=ended,
    )


def observed(*, market="spot", attempts=(), **facts):
    request = {"command": ["train"], "instance_types": ["m5.large", "c5.large"], "market": market}
    run = Run(
        run_id="run-1",
        request=parse_request(request),
        started_at=NOW,
        execution="run-1",
        execution_arn="arn",
    )
    return Observation(run=run, attempts=attempts, zones=ZONES, now=NOW, **facts)


def asked_all(market="spot", code=REFUSAL, **facts):
    """Return the observation after a round in which every pool refused with a code."""
    whole = observed(market=market, asked=markets_of(market), **facts)
    return replace(whole, refusals=dict.fromkeys(whole.candidates, code))


def pools(market="spot"):
    return tuple(Pool(name, zone, market) for name in ("m5.large", "c5.large") for zone in ZONES)


@pytest.mark.parametrize("market", MARKETS)
def test_a_round_requests_every_market_once_and_spot_first(market):
    observation, requested = observed(market=market), []
    while isinstance(plan := plan_launch(observation), Launch):
        assert plan.pools == pools(plan.market)
        requested.append(plan.market)
        refusals = {**observation.refusals, **dict.fromkeys(plan.pools, REFUSAL)}
        observation = replace(observation, asked=tuple(requested), refusals=refusals)
    assert requested == market.split("-then-")
    assert isinstance(plan, Wait)


@given(replayed=st.sampled_from(["spot", "on-demand"]))
def test_the_market_after_a_replayed_request_is_the_other_one(replayed):
    plan = plan_launch(observed(market="spot-then-on-demand", replayed=replayed))
    assert {plan.market, replayed} == {"spot", "on-demand"}
    assert f"after {replayed} launched nothing" in plan.reason


def test_a_cooling_pool_is_left_out_and_the_reason_names_it():
    first, *others = pools()
    plan = plan_launch(observed(cooling={first: NOW + timedelta(minutes=5)}))
    assert plan.pools == tuple(others)
    assert f"{first} left out, cooling down" in plan.reason


def test_if_all_pools_cool_down_all_are_requested_and_the_reason_says_so():
    plan = plan_launch(observed(cooling=dict.fromkeys(pools(), NOW + timedelta(minutes=5))))
    assert set(plan.pools) == set(pools())
    assert "all of them cooling down" in plan.reason


def test_known_prices_are_in_the_reason():
    prices = {pools()[2]: Decimal("0.0312"), pools()[0]: Decimal("0.05")}
    assert f"from $0.0312 an hour ({pools()[2]})" in plan_launch(observed(prices=prices)).reason


def test_after_a_round_the_launch_waits_and_names_the_pools():
    plan = plan_launch(asked_all())
    assert plan.until == NOW + timedelta(seconds=30)
    assert f"{pools()[0]}: {REFUSAL}" in plan.reason
    soon = plan_launch(asked_all(code="RequestLimitExceeded"))
    assert (soon.until, soon.retry_soon) == (NOW + timedelta(seconds=5), True)


def test_types_that_no_zone_offers_are_refused_unless_the_run_had_an_instance():
    assert isinstance(plan_launch(asked_all(code="Unsupported")), Refuse)
    before = (an_attempt(1, launched=True, ended=Outcome(kind=OutcomeKind.LOST)),)
    assert isinstance(plan_launch(asked_all(code="Unsupported", attempts=before)), Wait)


def test_a_rejected_request_is_refused_with_what_ec2_said():
    plan = plan_launch(observed(denial="no permission"))
    assert plan == Refuse(reason="the launch was refused: no permission")


def test_a_market_of_a_newer_version_is_refused_with_the_remedy():
    known = observed()
    request = known.run.request
    newer = replace(request, resources=replace(request.resources, market="reserved"))
    plan = plan_launch(replace(known, run=replace(known.run, request=newer)))
    assert isinstance(plan, Refuse)
    assert "market: reserved" in plan.reason
    assert "deploy the version of runctl that created the run" in plan.reason


def test_refusals_in_a_row_wait_twice_as_long_up_to_half_an_hour():
    refused = [an_attempt(number) for number in range(1, 12)]
    waits = [
        backoff(refused[:count], retry_soon=False).total_seconds() for count in range(len(refused))
    ]
    assert waits[:4] == [30, 60, 120, 240]
    assert waits[-1] == MAX_BACKOFF.total_seconds() == 1800


def test_pools_that_gave_no_answer_are_requested_again_after_seconds_up_to_five_minutes():
    refused = [an_attempt(number, ended=UNANSWERED) for number in range(1, 12)]
    waits = [
        backoff(refused[:count], retry_soon=True).total_seconds() for count in range(len(refused))
    ]
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == MAX_RETRY_DELAY.total_seconds() == 300
    # Refusals of the other kind do not count.
    assert backoff(refused, retry_soon=False) == timedelta(seconds=30)
    scarce = [an_attempt(number) for number in range(1, 12)]
    assert backoff(scarce, retry_soon=True) == timedelta(seconds=5)


def test_a_launch_ends_the_series_of_refusals():
    tried = [an_attempt(1), an_attempt(2, launched=True)]
    assert backoff(tried, retry_soon=False) == timedelta(seconds=30)


@given(seconds=st.integers(-600, 600))
def test_the_rest_of_a_wait_is_counted_from_the_plan(seconds):
    outcome = replace(NO_CAPACITY, retry_at=NOW + timedelta(seconds=seconds))
    assert remaining_wait(outcome, [], policy=TRAIN_POLICY, now=NOW) == timedelta(
        seconds=max(seconds, 0)
    )


def test_an_outcome_of_an_older_version_waits_from_now_on():
    assert remaining_wait(NO_CAPACITY, [an_attempt(1)], policy=TRAIN_POLICY, now=NOW) == timedelta(
        seconds=60
    )


@pytest.mark.parametrize("policy", [TRAIN_POLICY, SERVICE])
def test_a_reclaimed_instance_is_replaced_at_once(policy):
    interrupted = Outcome(kind=OutcomeKind.INTERRUPTED)
    assert remaining_wait(interrupted, [], policy=policy, now=NOW) == timedelta(0)


def test_a_retried_failure_of_a_trainer_does_not_wait():
    assert remaining_wait(FAILED, [], policy=TRAIN_POLICY, now=NOW) == timedelta(0)


def test_a_service_that_keeps_failing_is_restarted_after_increasing_delays():
    waits = [
        remaining_wait(
            FAILED,
            [an_attempt(number, launched=True, ended=FAILED) for number in range(1, count)],
            policy=SERVICE,
            now=NOW,
        ).total_seconds()
        for count in (1, 2, 3, 20)
    ]
    assert waits == [5, 10, 20, 300]
