"""LaunchInstances launches once, whoever calls it, and leaves nothing behind."""

import contextlib
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import NotFoundError, RefusedError, RunEndedError, TransientError
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.pool import MachineKind, Pool
from runctl.model.root_volume import RootVolume
from runctl.model.run import AttemptStage, Launched
from runctl.policy.launch_plan import Launch, LaunchPolicy, Refuse, Wait, plan_launch
from tests.control.fakes import START, World
from tests.control.faulty_worlds import CrashError, Fragile
from tests.control.scenes import RUN, launched, prepared
from tests.control.steps import confirm_checkpoint, decide_next, launch_instances

LAUNCHED = {"run_id": RUN, "attempt": 1, "launched": True, "heartbeat_seconds": 300}
SPOT = [
    Pool(kind, zone, "spot")
    for kind in ("m5.large", "c5.large")
    for zone in ("us-east-1a", "us-east-1b")
]


def refuse(world, pools, code="InsufficientInstanceCapacity"):
    world.fleet.refusals |= dict.fromkeys(pools, code)


def pools_of(request):
    return [Pool.parse(text) for text in json.loads(request)["pools"]]


def test_second_launch_adopts_what_the_first_launched():
    world = prepared()
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert len(world.fleet.requests) == len(world.fleet.machines) == 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 11))
def test_a_launch_that_stopped_halfway_is_resumed(fuse, after):
    world = prepared()
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=fuse, after=after), RUN, 1)
    world.clock.advance(timedelta(minutes=3))
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert len(world.fleet.machines) == 1


def test_a_stored_request_is_replayed_verbatim_although_the_pools_have_changed():
    world = prepared()
    with pytest.raises(CrashError):
        # find_run, attempts, zones, volumes, cooling, build, open, launch; the clock is no port
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    world.ledger.cool_pool(SPOT[0], until=START + timedelta(hours=1))
    launch_instances(world, RUN, 1)
    first, second = world.fleet.requests
    assert first == second


def test_a_stored_request_is_replayed_without_a_new_plan():
    world = prepared()
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    planned = world.ledger.find_attempt(RUN, 1).plan

    def plan(_seen):
        raise AssertionError("the stored request decides")

    assert launch_instances(world, RUN, 1, policy=LaunchPolicy(plan=plan)) == LAUNCHED
    assert len(world.fleet.machines) == 1
    assert world.ledger.find_attempt(RUN, 1).plan == planned


def test_the_reason_of_the_plan_is_stored_with_the_attempt():
    world = prepared(market="spot-then-on-demand")
    refuse(world, SPOT)
    launch_instances(world, RUN, 1)
    plan = world.ledger.find_attempt(RUN, 1).plan
    assert plan.startswith("m5.large/us-east-1a/on-demand")
    assert plan.endswith("after spot launched nothing")


def test_a_plan_to_wait_requests_nothing_before_its_time_and_launches_afterwards():
    world = prepared()
    until = START + timedelta(hours=2)

    def plan(seen):
        if seen.now < until:
            return Wait(until=until, reason="spot is cheaper at night")
        return plan_launch(seen)

    policy = LaunchPolicy(plan=plan)
    launch = launch_instances(world, RUN, 1, policy=policy)
    assert (launch["launched"], launch["outcome"]["kind"]) == (False, "no_capacity")
    assert launch["outcome"]["retry_at"] == until.isoformat()
    assert world.fleet.requests == []
    world.clock.advance(timedelta(minutes=30))
    # A call that is repeated meanwhile gets the same result.
    assert launch_instances(world, RUN, 1, policy=policy) == launch
    confirmed = confirm_checkpoint(world, RUN, 1, launch["outcome"])
    decided = decide_next(world, RUN, 1, confirmed["outcome"])
    assert (decided["decision"], decided["attempt"]) == ("relaunch", 2)
    assert decided["wait_seconds"] == 5400
    waiting = world.ledger.find_attempt(RUN, 1)
    assert (waiting.ended.reason, waiting.ended.retry_at) == ("spot is cheaper at night", until)
    world.clock.advance(timedelta(seconds=decided["wait_seconds"]))
    assert launch_instances(world, RUN, 2, policy=policy) == {**LAUNCHED, "attempt": 2}


def test_a_plan_that_refuses_ends_the_run_with_its_reason():
    world = prepared()

    def plan(_seen):
        return Refuse(reason="no region is allowed; name one in cdk.json")

    launch = launch_instances(world, RUN, 1, policy=LaunchPolicy(plan=plan))
    assert world.fleet.requests == []
    confirmed = confirm_checkpoint(world, RUN, 1, launch["outcome"])
    decided = decide_next(world, RUN, 1, confirmed["outcome"])
    assert (decided["decision"], decided["status"]) == ("give_up", "failed")
    assert decided["reason"] == "no region is allowed; name one in cdk.json"


def test_a_plan_that_needs_prices_observes_them_and_may_choose_by_them():
    world = prepared()
    world.prices.known = {SPOT[0]: Decimal("0.09"), SPOT[3]: Decimal("0.03")}

    def plan(seen):
        cheapest = min(seen.prices, key=seen.prices.__getitem__)
        return Launch(pools=(cheapest,), market=cheapest.market, reason="the cheapest pool")

    policy = LaunchPolicy(plan=plan, needs_prices=True)
    assert launch_instances(world, RUN, 1, policy=policy) == LAUNCHED
    attempt = world.ledger.find_attempt(RUN, 1)
    assert (Pool.parse(attempt.pool), attempt.plan) == (SPOT[3], "the cheapest pool")


def test_refusing_pools_cool_and_the_reason_names_them():
    world = prepared()
    refuse(world, SPOT)
    launch = launch_instances(world, RUN, 1)
    assert not launch["launched"]
    assert launch["outcome"]["kind"] == "no_capacity"
    assert "m5.large/us-east-1a/spot: InsufficientInstanceCapacity" in launch["outcome"]["reason"]
    assert set(world.ledger.cooling_pools(SPOT, now=START)) == set(SPOT)


def test_a_cooling_pool_is_left_out():
    world = prepared()
    world.ledger.cool_pool(SPOT[0], until=START + timedelta(minutes=1))
    launch_instances(world, RUN, 1)
    assert pools_of(world.fleet.requests[0]) == SPOT[1:]


def test_when_all_pools_cool_down_all_are_requested():
    world = prepared()
    for pool in SPOT:
        world.ledger.cool_pool(pool, until=START + timedelta(minutes=1))
    assert launch_instances(world, RUN, 1) == LAUNCHED


def test_on_demand_follows_in_the_same_launch_once_every_spot_pool_has_refused():
    world = prepared(market="spot-then-on-demand")
    refuse(world, SPOT)
    assert launch_instances(world, RUN, 1) == LAUNCHED
    attempt = world.ledger.find_attempt(RUN, 1)
    assert (attempt.launch_try, Pool.parse(attempt.pool).market) == (2, "on-demand")


def test_the_second_caller_of_a_refused_launch_requests_once_more():
    world = prepared()
    refuse(world, SPOT)
    launch_instances(world, RUN, 1)
    world.fleet.refusals.clear()
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert world.ledger.find_attempt(RUN, 1).launch_try == 2


THROTTLED = ["RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException"]
FAILED = ["InternalError", "Unavailable", "ServiceUnavailable"]


@pytest.mark.parametrize("code", [*THROTTLED, *FAILED, "SomethingNew"])
def test_a_pool_that_gave_no_answer_does_not_cool_and_is_requested_again_after_seconds(code):
    world = prepared()
    refuse(world, SPOT[:2])
    refuse(world, SPOT[2:], code)
    launch = launch_instances(world, RUN, 1)
    assert f"{SPOT[2]}: {code}" in launch["outcome"]["reason"]
    assert set(world.ledger.cooling_pools(SPOT, now=START)) == set(SPOT[:2])
    confirmed = confirm_checkpoint(world, RUN, 1, launch["outcome"])
    assert decide_next(world, RUN, 1, confirmed["outcome"])["wait_seconds"] == 5
    launch_instances(world, RUN, 2)
    assert pools_of(world.fleet.requests[-1]) == SPOT[2:]


def test_a_throttled_call_cools_no_pool_and_is_repeated_after_seconds():
    world = prepared(market="spot-then-on-demand")
    world.fleet.call_error = "RequestLimitExceeded"
    launch = launch_instances(world, RUN, 1)
    assert (launch["outcome"]["kind"], launch["outcome"]["retry_soon"]) == ("no_capacity", True)
    assert world.ledger.pools == {}


def test_a_throttled_replay_says_nothing_about_what_the_first_call_launched():
    world = prepared()
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    world.fleet.call_error = "RequestLimitExceeded"
    with pytest.raises(TransientError):
        launch_instances(world, RUN, 1)
    world.fleet.call_error = ""
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert len(world.fleet.machines) == 1


def test_too_many_fleets_count_as_no_capacity_and_are_reported():
    world = prepared()
    world.fleet.call_error = "MaxFleetCountExceeded"
    launch = launch_instances(world, RUN, 1)
    assert launch["outcome"]["kind"] == "no_capacity"
    assert "too many EC2 fleets; see https://us-east-1.console" in launch["outcome"]["reason"]
    assert world.ledger.pools == {}


def test_a_quota_that_others_use_up_is_waited_for_and_reported_with_its_numbers_and_its_page():
    world = prepared()
    world.quotas.values["L-34B43A08"] = 16
    world.quotas.sizes["c5.large"] = 2
    refuse(world, SPOT, "MaxSpotInstanceCountExceeded")
    launch = launch_instances(world, RUN, 1)
    assert launch["outcome"]["kind"] == "no_capacity"
    assert launch["outcome"]["reason"].endswith(
        "quota L-34B43A08 (All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests) is 16 "
        "vCPUs in us-east-1, and the run needs 2 vCPUs for c5.large: other instances use it up; "
        "end some, or request a higher quota at https://us-east-1.console.aws.amazon.com/"
        "servicequotas/home/services/ec2/quotas/L-34B43A08"
    )


def ends(world, number=1):
    """Return how the run ends after an attempt's launch, or None while it continues."""
    launch = launch_instances(world, RUN, number)
    confirmed = confirm_checkpoint(world, RUN, number, launch["outcome"])
    decision = decide_next(world, RUN, number, confirmed["outcome"])
    return decision["reason"] if decision.get("status") == "failed" else None


def test_a_quota_of_zero_ends_the_run():
    world = prepared()
    world.quotas.values["L-34B43A08"] = 0
    refuse(world, SPOT, "MaxSpotInstanceCountExceeded")
    reason = ends(world)
    assert "quota L-34B43A08" in reason
    assert "is 0 vCPUs in us-east-1, and the run needs 4 vCPUs for c5.large" in reason


def test_a_quota_whose_value_cannot_be_read_ends_nothing():
    world = prepared()
    refuse(world, SPOT, "MaxSpotInstanceCountExceeded")
    assert ends(world) is None
    reason = world.ledger.find_attempt(RUN, 1).ended.reason
    assert "quota L-34B43A08" in reason
    assert "its value could not be read" in reason


def test_a_quota_of_zero_for_spot_leaves_on_demand():
    world = prepared(market="spot-then-on-demand")
    world.quotas.values["L-34B43A08"] = 0
    refuse(world, SPOT, "MaxSpotInstanceCountExceeded")
    assert launch_instances(world, RUN, 1) == LAUNCHED


def test_types_that_no_zone_offers_end_the_run_once_all_have_been_requested():
    world = prepared(market="spot-then-on-demand")
    both = [*SPOT, *(Pool(pool.instance_type, pool.zone, "on-demand") for pool in SPOT)]
    refuse(world, both, "InvalidFleetConfiguration")
    # An earlier run found one of them to be unsupported, so that it is left out at first.
    world.ledger.cool_pool(both[0], until=START + timedelta(days=1))
    assert ends(world, 1) is None
    reason = ends(world, 2)
    assert "does not offer c5.large and m5.large in us-east-1a and us-east-1b" in reason
    assert "misspelled" in reason


def test_a_run_waits_if_one_zone_lacks_the_type_and_another_has_no_capacity():
    world = prepared()
    refuse(world, SPOT, "InvalidFleetConfiguration")
    refuse(world, SPOT[:1])
    assert ends(world) is None


def test_types_that_the_run_had_before_are_waited_for():
    world = prepared()
    launched(world)
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=START)
    refuse(world, SPOT, "Unsupported")
    assert ends(world, 2) is None


def test_a_request_that_aws_refuses_outright_fails_the_attempt_and_the_run(monkeypatch):
    world = prepared()

    def refused(_request):
        raise RefusedError("no permission")

    monkeypatch.setattr(world.fleet, "launch", refused)
    launch = launch_instances(world, RUN, 1)
    assert (launch["launched"], launch["outcome"]["kind"]) == (False, "failed")
    assert launch["outcome"]["reason"] == "the launch was refused: no permission"
    confirmed = confirm_checkpoint(world, RUN, 1, launch["outcome"])
    assert world.ledger.find_attempt(RUN, 1).ended.kind is OutcomeKind.FAILED
    decision = decide_next(world, RUN, 1, confirmed["outcome"])
    assert (decision["status"], decision["reason"]) == ("failed", launch["outcome"]["reason"])


def test_an_ended_attempt_returns_its_outcome():
    world = prepared()
    launched(world)
    taken = Outcome(kind=OutcomeKind.INTERRUPTED, reason="taken")
    world.ledger.end_attempt(RUN, 1, outcome=taken, now=START)
    launch = launch_instances(world, RUN, 1)
    assert (launch["launched"], launch["outcome"]) == (False, taken.as_document())


def test_a_machine_that_was_launched_but_never_recorded_ends_with_its_attempt():
    world = prepared()
    attempt = world.ledger.open_attempt(
        RUN,
        1,
        launch_try=1,
        source=Launched(world.fleet.build_request(run_id=RUN, attempt=1, launch_try=1, pools=SPOT)),
        now=START,
    )
    stray = world.fleet.launch(attempt.fleet_request).instance_ids
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=START)
    assert not launch_instances(world, RUN, 1)["launched"]
    assert tuple(world.fleet.terminated) == stray


def end_run(world):
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="stop", now=START)


def test_nothing_is_launched_for_a_run_that_has_ended():
    world = prepared()
    end_run(world)
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)
    assert world.fleet.machines == {}


def test_a_run_that_ends_during_the_launch_takes_the_machine_with_it(monkeypatch):
    world = prepared()
    launch = world.fleet.launch

    def launch_while_the_run_ends(request):
        end_run(world)
        return launch(request)

    monkeypatch.setattr(world.fleet, "launch", launch_while_the_run_ends)
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)
    assert world.fleet.running() == []
    assert len(world.fleet.machines) == 1


def test_a_crash_between_launch_and_record_is_cleaned_up_after_the_run_ended():
    world = prepared()
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    assert len(world.fleet.running()) == 1
    end_run(world)
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)
    assert world.fleet.running() == []


def test_a_run_that_ends_during_the_launch_takes_a_machine_that_ec2_does_not_show_yet(monkeypatch):
    world = prepared()
    launch = world.fleet.launch

    def launch_while_the_run_ends(request):
        end_run(world)
        result = launch(request)
        world.fleet.hidden |= set(result.instance_ids)
        return result

    monkeypatch.setattr(world.fleet, "launch", launch_while_the_run_ends)
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)
    assert world.fleet.running() == []


def test_a_request_that_ec2_never_saw_is_not_sent_after_the_run_ended():
    world = prepared()
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=8, after=False), RUN, 1)
    end_run(world)
    with pytest.raises(RunEndedError):
        launch_instances(world, RUN, 1)
    assert world.fleet.requests == []


def test_the_slower_of_two_tries_ends_its_own_machine(monkeypatch):
    world = prepared()
    launch = world.fleet.launch

    def launch_while_another_try_wins(request):
        world.ledger.record_launch(RUN, 1, instance_ids=["i-quick"], pool=str(SPOT[3]), now=START)
        return launch(request)

    monkeypatch.setattr(world.fleet, "launch", launch_while_another_try_wins)
    assert launch_instances(world, RUN, 1) == LAUNCHED
    assert world.fleet.terminated == ["i-0001"]
    attempt = world.ledger.find_attempt(RUN, 1)
    assert (attempt.instance_ids, attempt.stage) == (("i-quick",), AttemptStage.LAUNCHED)


def test_an_unknown_run_cannot_be_launched():
    with pytest.raises(NotFoundError):
        launch_instances(World(), RUN, 1)


def test_a_full_disk_and_known_sizes_enlarge_the_disk_and_the_plan_says_why():
    world = prepared()
    world.fleet.volumes = {MachineKind.X86_CPU: RootVolume(device="/dev/sda1", gib=50)}
    launched(world, 1)
    full = Outcome(kind=OutcomeKind.FAILED, reason="the disk was full", is_disk_full=True)
    world.ledger.end_attempt(RUN, 1, outcome=full, now=START)
    decision = decide_next(world, RUN, 1, full.as_document())
    assert (decision["decision"], decision["attempt"]) == ("relaunch", 2)
    launch_instances(world, RUN, 2)
    first, second = world.fleet.requests
    assert json.loads(first)["disks"] == {}
    assert json.loads(second)["disks"] == {"x86_cpu": 100}
    plan = world.ledger.find_attempt(RUN, 2).plan
    assert "a disk of 100 GiB, since the disk of attempt 1 was full" in plan


def test_the_size_of_the_newest_checkpoint_enlarges_the_disk():
    world = prepared()
    world.fleet.volumes = {MachineKind.X86_CPU: RootVolume(device="/dev/sda1", gib=50)}
    run = world.ledger.find_run(RUN)
    world.ledger.runs[RUN] = replace(run, newest="m", newest_bytes=50 * 2**30)
    launch_instances(world, RUN, 1)
    (request,) = world.fleet.requests
    assert json.loads(request)["disks"] == {"x86_cpu": 135}


def test_a_launch_waits_for_other_runs_where_the_deployment_limits_its_instances():
    world = prepared()
    world.fleet.limits = DeploymentLimits(max_instances=1)
    request = world.fleet.build_request(run_id="other", attempt=1, launch_try=1, pools=SPOT)
    (other,) = world.fleet.launch(request).instance_ids
    world.fleet.requests.clear()
    outcome = launch_instances(world, RUN, 1)["outcome"]
    assert outcome["kind"] == "no_capacity"
    assert "max_instances (1) of the deployment" in outcome["reason"]
    assert world.fleet.requests == []
    world.fleet.terminate([other])
    assert launch_instances(world, RUN, 2)["launched"]


def test_a_replacement_takes_the_place_of_the_instance_that_is_about_to_end():
    world = prepared()
    world.fleet.limits = DeploymentLimits(max_instances=1)
    launched(world)
    assert launch_instances(world, RUN, 2)["launched"]
