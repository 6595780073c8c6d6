"""A gang is launched at once, and repaired by its next attempt, which keeps what is left of it."""

import contextlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.model.errors import RefusedError
from runctl.model.machine import MachineStatus
from runctl.model.node import NodeId, NodeProgress, NodeStage
from runctl.model.outcome import RunStatus
from runctl.model.pool import Pool
from runctl.model.run import AttemptStage
from runctl.policy.gang import REPAIR_FOR
from runctl.policy.heartbeat import USUAL_SILENCE
from runctl.policy.reconciling import GRACE
from tests.control.fakes import START, World
from tests.control.faulty_worlds import CrashError, Fragile, Overtaken
from tests.control.scenes import ARN, RUN, prepared
from tests.control.steps import (
    clean_up,
    confirm_checkpoint,
    decide_next,
    finish_run,
    handle_instance_change,
    handle_interruption,
    handle_rebalance,
    launch_instances,
    reconcile,
    train,
)

TYPES = ("m5.large", "c5.large")
ZONES = ("us-east-1a", "us-east-1b")
INTERRUPTED = {"kind": "interrupted", "reason": "a notice"}
RECLAIMED = "Server.SpotInstanceTermination"


def gang(nodes=3, **request) -> World:
    return prepared(nodes=nodes, **request)


def beat(world, number=1, *, but=()):
    """Let the agents of an attempt report, apart from those of some ranks."""
    for node in world.ledger.find_attempt(RUN, number).nodes:
        if node.instance_id and node.rank not in but:
            progress = NodeProgress(phase="train")
            world.ledger.record_progress(node.node_id, progress, now=world.clock.now())


def start(world, number=1):
    """Launch an attempt, give it a token, and let its agents report; return its instances."""
    assert launch_instances(world, RUN, number)["launched"]
    token = f"token-{number}"
    world.workflow.valid.add(token)
    train(world, RUN, number, token=token, execution_arn=ARN)
    beat(world, number)
    return ids(world, number)


def ids(world, number=1):
    return list(world.ledger.find_attempt(RUN, number).instance_ids)


def running(world):
    return sorted(machine.instance_id for machine in world.fleet.running())


def refuse(world, *, zones=ZONES, code="InsufficientInstanceCapacity"):
    world.fleet.refusals |= {Pool(kind, zone, "spot"): code for kind in TYPES for zone in zones}


def last_request(world):
    return json.loads(world.fleet.requests[-1])


def test_all_nodes_are_launched_with_one_request_in_one_pool():
    world = gang(nodes=3, spares=1)
    assert launch_instances(world, RUN, 1)["launched"]
    (request,) = map(json.loads, world.fleet.requests)
    assert request["pools"] == ["m5.large/us-east-1a/spot"]
    assert [request[name] for name in ("count", "least", "nodes", "placed")] == [4, 3, 4, True]
    attempt = world.ledger.find_attempt(RUN, 1)
    assert [node.rank for node in attempt.nodes] == [0, 1, 2, 3]
    assert sorted(attempt.instance_ids) == running(world)


def test_a_missing_spare_does_not_prevent_the_launch():
    world = gang(nodes=2, spares=2)
    world.fleet.room[Pool("m5.large", "us-east-1a", "spot")] = 3
    assert launch_instances(world, RUN, 1)["launched"]
    assert len(ids(world)) == 3


def test_a_zone_with_too_few_machines_launches_none_and_the_next_one_is_asked():
    world = gang(nodes=3)
    world.fleet.room |= {Pool("m5.large", "us-east-1a", "spot"): 2}
    assert launch_instances(world, RUN, 1)["launched"]
    assert {machine.pool.zone for machine in world.fleet.running()} == {"us-east-1b"}
    assert len(running(world)) == 3


def test_the_placement_group_is_left_out_after_all_pools_refused():
    world = gang()
    world.fleet.is_crowded = True
    assert launch_instances(world, RUN, 1)["launched"]
    placed = [json.loads(request)["placed"] for request in world.fleet.requests]
    assert placed == [True, True, True, True, False]
    assert "without a placement group" in world.ledger.find_attempt(RUN, 1).plan


def test_a_rejected_placement_group_is_left_out(monkeypatch):
    world = gang()
    launch = world.fleet.launch

    def reject(request):
        if json.loads(request)["placed"]:
            world.fleet.requests.append(request)
            raise RefusedError("the placement group does not exist")
        return launch(request)

    monkeypatch.setattr(world.fleet, "launch", reject)
    assert launch_instances(world, RUN, 1)["launched"]
    assert [json.loads(request)["placed"] for request in world.fleet.requests] == [True, False]


def test_a_deployment_that_cannot_launch_several_nodes_ends_the_run_with_the_remedy(monkeypatch):
    world = gang()

    def refuse_to_build(**_options):
        raise RefusedError("deploy again for several nodes")

    monkeypatch.setattr(world.fleet, "build_request", refuse_to_build)
    outcome = launch_instances(world, RUN, 1)["outcome"]
    assert outcome["kind"] == "failed"
    assert outcome["reason"] == "the launch was refused: deploy again for several nodes"


def test_a_partial_launch_is_returned_at_once(monkeypatch):
    world = gang(nodes=3)
    launch = world.fleet.launch

    def lose_one(request):
        result = launch(request)
        first = len(world.fleet.requests) == 1
        return replace(result, instance_ids=result.instance_ids[1:]) if first else result

    monkeypatch.setattr(world.fleet, "launch", lose_one)
    assert launch_instances(world, RUN, 1)["launched"]
    assert world.fleet.terminated == ["i-0002", "i-0003"]
    assert len(ids(world)) == 3
    assert not set(ids(world)) & {"i-0001", "i-0002", "i-0003"}


def test_more_nodes_than_the_quota_allows_are_refused_with_the_numbers():
    world = gang(nodes=4)
    refuse(world, code="MaxSpotInstanceCountExceeded")
    world.quotas.values["L-34B43A08"] = 12
    launch = launch_instances(world, RUN, 1)
    assert launch["outcome"]["kind"] == "failed"
    assert "12 vCPUs" in launch["outcome"]["reason"]
    assert "16 vCPUs for 4 nodes" in launch["outcome"]["reason"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 13))
def test_a_launch_or_a_repair_that_stopped_halfway_is_resumed(fuse, after):
    world = gang()
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=fuse, after=after), RUN, 1)
    start(world)
    assert len(running(world)) == 3
    world.ledger.record_notice(NodeId(RUN, 1, 1), now=world.clock.now())
    confirm_checkpoint(world, RUN, 1, INTERRUPTED)
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=fuse, after=after), RUN, 2)
    start(world, 2)
    assert len(running(world)) == 4  # the noticed one is left to EC2
    assert ids(world, 2) == ["i-0001", "i-0003", "i-0004"]


def test_a_notice_makes_all_nodes_drain_and_launches_only_the_missing_one():
    world = gang()
    machines = start(world)
    handled = handle_interruption(world, machines[0])
    assert handled["status"] == "relaunched"
    assert handled["agent_reached"]
    assert world.commands.sent == [(machine, "drain") for machine in machines]
    assert ids(world, 2) == [*machines[1:], "i-0004"]
    request = last_request(world)
    assert (request["count"], request["nodes"]) == (1, 3)
    assert [node.rank for node in world.ledger.find_attempt(RUN, 2).nodes] == [0, 1, 2]
    assert world.fleet.terminated == []
    # What the survivors do from here on belongs to the next attempt.
    assert world.ledger.find_instance(machines[1]) == NodeId(RUN, 2, 0)


def test_the_same_notice_again_launches_nothing_more():
    world = gang()
    machines = start(world)
    for _ in range(3):
        assert handle_interruption(world, machines[1])["status"] == "relaunched"
    assert len(running(world)) == 4


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 30, 2))
def test_a_handler_that_stopped_halfway_is_repeated(fuse, after):
    world = gang()
    machines = start(world)
    with contextlib.suppress(CrashError):
        handle_interruption(Fragile(world, fuse=fuse, after=after), machines[1])
    handle_interruption(world, machines[1])
    assert ids(world, 2) == [machines[0], machines[2], "i-0004"]
    assert len(running(world)) == 4
    assert {(machine, "drain") for machine in machines} <= set(world.commands.sent)


def test_a_second_notice_before_the_replacement_has_its_token_ends_that_attempt_for_the_next():
    world = gang()
    machines = start(world)
    handle_interruption(world, machines[0])
    assert handle_interruption(world, machines[1])["status"] == "relaunched"
    second = world.ledger.find_attempt(RUN, 2)
    assert (second.stage, second.ended.kind.value) == (AttemptStage.ENDED, "interrupted")
    assert ids(world, 3) == [machines[2], "i-0004", "i-0005"]
    # The state machine follows, one attempt after the other.
    confirmed = confirm_checkpoint(world, RUN, 1, INTERRUPTED)
    decided = decide_next(world, RUN, 1, confirmed["outcome"])
    launch = launch_instances(world, RUN, decided["attempt"])
    assert (launch["launched"], launch["outcome"]["kind"]) == (False, "interrupted")
    confirmed = confirm_checkpoint(world, RUN, 2, launch["outcome"])
    assert decide_next(world, RUN, 2, confirmed["outcome"])["attempt"] == 3
    start(world, 3)
    assert world.fleet.terminated == []


def test_two_notices_at_once_leave_an_attempt_without_either():
    for at in range(1, 30):
        world = gang()
        machines = start(world)

        def meanwhile(world=world):
            world.ledger.record_notice(NodeId(RUN, 1, 1), now=world.clock.now())

        handle_interruption(Overtaken(world, at=at, meanwhile=meanwhile), machines[0])
        handle_interruption(world, machines[1])
        last = world.ledger.attempts(RUN)[-1]
        assert not {machines[0], machines[1]} & set(last.instance_ids), at
        assert last.ended is None
        assert len(last.instance_ids) == 3


@pytest.mark.parametrize("at", range(1, 23))
def test_a_notice_for_a_machine_that_a_concurrent_launch_keeps_is_not_lost(at):
    world = gang()
    machines = start(world)
    handled = []

    def meanwhile():
        handled.append(handle_interruption(world, machines[2])["status"])

    handle_interruption(Overtaken(world, at=at, meanwhile=meanwhile), machines[0])
    assert handled
    last = world.ledger.attempts(RUN)[-1]
    assert last.ended is None
    assert not {machines[0], machines[2]} & set(last.instance_ids)


def test_a_notice_on_a_spare_lets_the_others_train_on():
    world = gang(nodes=2, spares=1)
    machines = start(world)
    assert handle_interruption(world, machines[2])["status"] == "not_relaunched"
    assert world.commands.sent == [(machines[2], "drain")]
    world.fleet.end(machines[2], reason=RECLAIMED)
    assert handle_instance_change(world, machines[2], "terminated")["status"] == "others_report"
    attempts = world.ledger.attempts(RUN)
    assert [attempt.ended for attempt in attempts] == [None]
    # The next attempt replaces it.
    handle_interruption(world, machines[0])
    assert ids(world, 2)[0] == machines[1]
    assert len(ids(world, 2)) == 3


def test_a_machine_that_goes_without_a_notice_is_reported_by_the_others():
    world = gang()
    machines = start(world)
    world.fleet.end(machines[1], reason=RECLAIMED)
    assert handle_instance_change(world, machines[1], "terminated")["status"] == "others_report"
    attempt = world.ledger.find_attempt(RUN, 1)
    assert attempt.ended is None
    assert attempt.nodes[1].stage is NodeStage.GONE
    assert world.workflow.reports == {}
    confirmed = confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [1]})
    assert confirmed["outcome"]["kind"] == "interrupted"
    assert confirmed["outcome"]["lost_ranks"] == [1]
    start(world, 2)
    assert ids(world, 2) == [machines[0], machines[2], "i-0004"]


def test_the_last_machine_that_goes_is_reported_for():
    world = gang(nodes=2)
    machines = start(world)
    for machine in machines:
        world.fleet.end(machine, reason=RECLAIMED)
        handled = handle_instance_change(world, machine, "terminated")
    assert handled["status"] == "reported"
    assert world.workflow.reports["token-1"]["outcome"]["kind"] == "interrupted"


def test_machines_that_go_in_the_same_moment_are_reported_for():
    for at in range(1, 20):
        world = gang(nodes=2)
        machines = start(world)
        for machine in machines:
            world.fleet.end(machine, reason=RECLAIMED)
        others = []

        def meanwhile(world=world, machine=machines[1], others=others):
            others.append(handle_instance_change(world, machine, "terminated"))

        overtaken = Overtaken(world, at=at, meanwhile=meanwhile)
        handle_instance_change(overtaken, machines[0], "terminated")
        if not others:
            break
        assert world.workflow.reports["token-1"]["outcome"]["kind"] == "interrupted"
    assert at > 4


def test_a_machine_that_goes_before_the_token_ends_the_attempt():
    world = gang()
    machines = start(world)
    handle_interruption(world, machines[0])
    world.fleet.end(machines[1], reason=RECLAIMED)
    assert handle_instance_change(world, machines[1], "terminated")["status"] == "ended"
    confirm_checkpoint(world, RUN, 1, INTERRUPTED)
    launch = launch_instances(world, RUN, 2)
    assert launch["outcome"]["kind"] == "interrupted"
    confirm_checkpoint(world, RUN, 2, launch["outcome"])
    start(world, 3)
    assert ids(world, 3) == [machines[2], "i-0004", "i-0005"]


def test_a_machine_that_is_lost_between_the_ends_of_two_attempts_is_not_kept():
    world = gang()
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [0]})
    assert handle_interruption(world, machines[1])["status"] == "already_ended"
    start(world, 2)
    assert ids(world, 2)[0] == machines[2]
    assert machines[1] not in ids(world, 2)


def test_a_machine_that_ec2_has_ended_is_not_kept():
    world = gang()
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [0]})
    world.fleet.end(machines[1], reason="Client.UserInitiatedShutdown")
    start(world, 2)
    assert machines[1] not in ids(world, 2)


def test_a_node_that_hangs_is_ended_and_the_others_are_kept():
    world = gang()
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "lost", "reason": "hangs", "lost_ranks": [2]})
    assert world.fleet.terminated == [machines[2]]
    start(world, 2)
    assert ids(world, 2) == [*machines[:2], "i-0004"]
    assert last_request(world)["count"] == 1


def test_all_machines_are_ended_when_all_are_silent():
    world = gang()
    machines = start(world)
    world.clock.advance(timedelta(minutes=6))
    confirm_checkpoint(world, RUN, 1, {"kind": "lost", "reason": "the heartbeat expired"})
    assert sorted(world.fleet.terminated) == machines
    start(world, 2)
    assert last_request(world)["count"] == 3


def test_kept_machines_that_are_all_silent_are_replaced_after_one_silence():
    world = gang(retry={"exit_codes": [3], "max_failures": 2})
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "failed", "exit_code": 3})
    launched = launch_instances(world, RUN, 2)
    assert ids(world, 2) == machines
    silence = timedelta(seconds=launched["heartbeat_seconds"])
    assert silence == USUAL_SILENCE
    # The state machine has waited from before the function that stores the token was called.
    world.clock.advance(timedelta(seconds=2))
    world.workflow.valid.add("token-2")
    train(world, RUN, 2, token="token-2", execution_arn=ARN)
    world.clock.advance(silence - timedelta(seconds=1))
    confirmed = confirm_checkpoint(world, RUN, 2, {"kind": "lost", "reason": "no heartbeat"})
    assert sorted(world.fleet.terminated) == machines
    assert decide_next(world, RUN, 2, confirmed["outcome"])["decision"] == "relaunch"
    start(world, 3)
    assert not set(ids(world, 3)) & set(machines)
    assert last_request(world)["count"] == 3


def test_after_a_failure_that_is_retried_nothing_is_launched():
    world = gang(retry={"exit_codes": [3], "max_failures": 2})
    machines = start(world)
    confirmed = confirm_checkpoint(world, RUN, 1, {"kind": "failed", "exit_code": 3})
    assert decide_next(world, RUN, 1, confirmed["outcome"])["decision"] == "relaunch"
    start(world, 2)
    assert ids(world, 2) == machines
    assert len(world.fleet.requests) == 1
    assert world.ledger.find_attempt(RUN, 2).plan == "all 3 machines go on"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 12))
def test_a_launch_of_nothing_that_stopped_halfway_is_resumed(fuse, after):
    world = gang(retry={"exit_codes": [3], "max_failures": 2})
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "failed", "exit_code": 3})
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=fuse, after=after), RUN, 2)
    start(world, 2)
    assert ids(world, 2) == machines


def test_after_a_full_disk_all_machines_are_replaced():
    world = gang()
    machines = start(world)
    full = {"kind": "failed", "exit_code": 1, "is_disk_full": True}
    confirm_checkpoint(world, RUN, 1, full)
    start(world, 2)
    assert not set(ids(world, 2)) & set(machines)
    assert sorted(world.fleet.terminated) == machines


def test_a_spare_takes_the_place_of_a_lost_node_although_no_further_one_is_there():
    world = gang(nodes=2, spares=1)
    machines = start(world)
    refuse(world)
    handle_interruption(world, machines[0])
    assert ids(world, 2) == machines[1:]
    assert len(world.fleet.requests) == 2


def test_fewer_nodes_go_on_if_the_request_allows_it():
    world = gang(nodes=3, min_nodes=2)
    machines = start(world)
    refuse(world)
    assert handle_interruption(world, machines[0])["status"] == "relaunched"
    assert ids(world, 2) == machines[1:]
    assert world.ledger.find_attempt(RUN, 2).plan == "2 of 3 nodes, without the others"
    confirm_checkpoint(world, RUN, 1, INTERRUPTED)
    start(world, 2)
    # Below the minimum it waits.
    handle_interruption(world, machines[1])
    confirm_checkpoint(world, RUN, 2, INTERRUPTED)
    assert launch_instances(world, RUN, 3)["outcome"]["kind"] == "no_capacity"
    # The next repair launches all that are missing.
    world.fleet.refusals.clear()
    confirm_checkpoint(world, RUN, 3, {"kind": "no_capacity"})
    beat(world, 2)
    start(world, 4)
    assert ids(world, 4)[0] == machines[2]
    assert len(ids(world, 4)) == 3


def refused_repair(world):
    """Refuse the repair of attempt 1 until its time is up; return the number of the next one."""
    number = 1
    confirmed = confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [1]})
    while True:
        decided = decide_next(world, RUN, number, confirmed["outcome"])
        assert decided["decision"] == "relaunch"
        world.clock.advance(timedelta(seconds=decided["wait_seconds"]))
        beat(world, 1, but=[1])
        number = decided["attempt"]
        if world.clock.now() - START >= REPAIR_FOR:
            return number
        launch = launch_instances(world, RUN, number)
        assert json.loads(world.fleet.requests[-1])["pools"][0].split("/")[1] == "us-east-1a"
        confirmed = confirm_checkpoint(world, RUN, number, launch["outcome"])


def test_a_repair_that_is_refused_for_long_becomes_a_full_move_at_the_promised_time():
    world = gang()
    machines = start(world)
    refuse(world, zones=["us-east-1a"])
    number = refused_repair(world)
    assert world.clock.now() - START == REPAIR_FOR
    assert set(machines) - set(running(world)) == {machines[1]}
    start(world, number)
    assert last_request(world)["count"] == 3
    assert running(world) == sorted(ids(world, number))
    assert {machine.pool.zone for machine in world.fleet.running()} == {"us-east-1b"}


def test_survivors_wait_for_a_repair_and_not_longer():
    world = gang()
    machines = start(world)
    confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [1]})
    world.clock.advance(REPAIR_FOR + GRACE - timedelta(seconds=1))
    assert reconcile(world)["terminated"] == []
    world.clock.advance(timedelta(seconds=1))
    assert reconcile(world)["terminated"] == [machines[0], machines[2]]


def test_machines_that_the_next_attempt_keeps_are_not_left_over_whatever_their_tags_say():
    world = gang()
    machines = start(world)
    handle_interruption(world, machines[0])
    confirm_checkpoint(world, RUN, 1, INTERRUPTED)
    start(world, 2)
    world.clock.advance(timedelta(hours=2))
    beat(world, 2)
    assert reconcile(world)["terminated"] == [machines[0]]
    world.fleet.end("i-0004", reason=RECLAIMED)
    confirm_checkpoint(world, RUN, 2, {"kind": "lost", "lost_ranks": [2]})
    assert running(world) == machines[1:]
    # The fleet of the first attempt is in use, and EC2 may not show its machines for a while.
    world.fleet.hidden |= set(machines)
    assert reconcile(world)["fleets_deleted"] == ["fleet-0002"]


@pytest.mark.parametrize("outcome", [INTERRUPTED, {"kind": "lost", "lost_ranks": [0]}])
def test_the_end_of_a_run_ends_what_waits_for_a_repair(outcome):
    world = gang(auto_resume=False)
    machines = start(world)
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=START)
    confirm_checkpoint(world, RUN, 1, outcome)
    finish_run(world, RUN, status="interrupted", reason="no auto_resume")
    assert running(world) == [machines[0]]  # EC2 takes it for free
    assert world.fleet.terminated == machines[1:]


def test_a_run_that_completes_inside_the_notice_lets_its_agents_leave_by_themselves():
    world = gang()
    machines = start(world)
    handle_interruption(world, machines[0])
    confirm_checkpoint(world, RUN, 1, {"kind": "completed"})
    finish_run(world, RUN, status="completed", reason="done")
    assert world.fleet.terminated == ["i-0004"]
    assert running(world) == machines


def test_a_stopped_run_asks_its_agents_although_they_are_kept_for_the_next_attempt():
    world = gang()
    machines = start(world)
    handle_interruption(world, machines[0])
    done = clean_up(world, execution_arn=ARN, name=RUN, status="ABORTED")
    assert done["asked_to_stop"] == machines[1:]
    assert done["terminated"] == ["i-0004"]
    assert world.ledger.find_run(RUN).ended is RunStatus.STOPPED


def test_a_failed_status_check_replaces_only_that_machine():
    world = gang()
    machines = start(world)
    world.clock.advance(timedelta(minutes=6))
    beat(world, but=[1])
    world.fleet.impaired[machines[1]] = MachineStatus(
        instance_id=machines[1], impaired={"instance": START}
    )
    assert reconcile(world)["replaced"] == [machines[1]]
    outcome = world.workflow.reports["token-1"]["outcome"]
    assert (outcome["kind"], outcome["lost_ranks"]) == ("lost", [1])
    confirm_checkpoint(world, RUN, 1, outcome)
    assert running(world) == [machines[0], machines[2]]


def test_a_failed_status_check_of_a_spare_replaces_nothing():
    world = gang(nodes=2, spares=1)
    machines = start(world)
    world.clock.advance(timedelta(minutes=6))
    beat(world, but=[2])
    world.fleet.impaired[machines[2]] = MachineStatus(
        instance_id=machines[2], impaired={"instance": START}
    )
    assert reconcile(world)["replaced"] == []


@pytest.mark.parametrize("handle", [handle_interruption, handle_instance_change])
def test_a_machine_that_is_lost_before_its_launch_is_on_record_ends_the_attempt_once_it_is(handle):
    more = ("terminated",) if handle is handle_instance_change else ()
    for at in range(1, 20):
        world = gang()
        machines = start(world)
        confirm_checkpoint(world, RUN, 1, {"kind": "lost", "lost_ranks": [1]})

        def meanwhile(world=world):
            if "i-0004" in running(world):
                handle(world, "i-0004", *more)

        launch = launch_instances(Overtaken(world, at=at, meanwhile=meanwhile), RUN, 2)
        if not launch["launched"]:
            break
    else:
        raise AssertionError("the machine was never lost in between")
    assert launch["outcome"]["kind"] == "interrupted"
    confirm_checkpoint(world, RUN, 2, launch["outcome"])
    start(world, 3)
    assert ids(world, 3) == [machines[0], machines[2], "i-0005"]


def test_a_checkpoint_that_a_machine_needs_is_asked_of_the_first_node():
    world = gang()
    machines = start(world)
    assert handle_rebalance(world, machines[2])["status"] == "asked"
    world.clock.advance(timedelta(minutes=6))
    beat(world)
    world.fleet.impaired[machines[1]] = MachineStatus(
        instance_id=machines[1], impaired={"instance": START}
    )
    assert reconcile(world)["asked_to_save"] == [machines[1]]
    assert world.commands.sent == 2 * [(machines[0], "checkpoint")]
