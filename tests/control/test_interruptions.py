"""The interruption warning launches the replacement, and then lets the agent drain."""

import pytest

from runctl.model.errors import TransientError
from runctl.model.kinds import KINDS, TRAIN, KindPolicy
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.pool import Pool
from tests.control.fakes import START, World
from tests.control.faulty_worlds import CrashError, Fragile
from tests.control.scenes import RUN, launched, prepared, stray, training
from tests.control.steps import (
    decide_next,
    handle_instance_change,
    handle_interruption,
    handle_rebalance,
    launch_instances,
)

LAUNCHED_AT_CALL = 8  # in launch_instances: the request is stored, and EC2 has responded


def test_the_replacement_is_launched_in_another_pool_and_the_agent_drains():
    world = prepared()
    instance_id = training(world)
    handled = handle_interruption(world, instance_id)
    assert handled == {
        "run_id": RUN,
        "attempt": 1,
        "status": "relaunched",
        "agent_reached": True,
    }
    first, second = world.ledger.attempts(RUN)
    assert first.noticed_at == START
    assert second.pool != first.pool
    assert world.commands.sent == [(instance_id, "drain")]
    assert world.fleet.terminated == []


def test_a_second_warning_launches_nothing_more():
    # The replacement is the last attempt, and does not count against itself.
    world = prepared(max_attempts=2)
    instance_id = training(world)
    for _ in range(3):
        assert handle_interruption(world, instance_id)["status"] == "relaunched"
    assert len(world.fleet.machines) == 2


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 18))
def test_a_handler_that_stopped_halfway_is_repeated(fuse, after):
    world = prepared()
    instance_id = training(world)
    try:
        handle_interruption(Fragile(world, fuse=fuse, after=after), instance_id)
    except CrashError:
        handle_interruption(world, instance_id)
    assert len(world.fleet.machines) == 2
    assert (instance_id, "drain") in world.commands.sent


def test_a_warning_after_the_attempts_end_changes_nothing():
    world = prepared()
    instance_id = training(world)
    outcome = Outcome(kind=OutcomeKind.COMPLETED)
    world.ledger.end_attempt(RUN, 1, outcome=outcome, now=START)
    assert handle_interruption(world, instance_id)["status"] == "already_ended"
    assert len(world.fleet.machines) == 1
    assert world.commands.sent == []


@pytest.mark.parametrize(
    "request_", [{"auto_resume": False}, {"max_attempts": 1}, {"deadline": "2030-01-01T12:30:00Z"}]
)
def test_what_the_state_machine_would_not_relaunch_is_not_relaunched(request_):
    world = prepared(**request_)
    instance_id = training(world)
    world.clock.time = START.replace(hour=13)
    assert handle_interruption(world, instance_id)["status"] == "not_relaunched"
    assert len(world.fleet.machines) == 1
    assert world.commands.sent == [(instance_id, "drain")]


def test_a_kind_whose_attempts_may_not_overlap_is_relaunched_after_the_drain(monkeypatch):
    policy = KindPolicy(retries_failures=False, restarts_indefinitely=False, may_overlap=False)
    monkeypatch.setitem(KINDS, TRAIN, policy)
    world = prepared()
    instance_id = training(world)
    assert handle_interruption(world, instance_id)["status"] == "not_relaunched"
    assert world.commands.sent == [(instance_id, "drain")]
    assert decide_next(world, RUN, 1, {"kind": "interrupted"})["decision"] == "relaunch"


def test_a_kind_that_restarts_indefinitely_continues_after_its_program_ended(monkeypatch):
    policy = KindPolicy(retries_failures=False, restarts_indefinitely=True, may_overlap=True)
    monkeypatch.setitem(KINDS, "serve", policy)
    world = prepared(kind="serve")
    training(world)
    assert world.ledger.find_run(RUN).request.kind == "serve"
    assert decide_next(world, RUN, 1, {"kind": "completed"})["decision"] == "relaunch"


def test_the_agent_drains_even_if_nothing_can_be_launched():
    world = prepared()
    instance_id = training(world)
    for kind in ("m5.large", "c5.large"):
        for zone in world.zones:
            world.fleet.refusals[Pool(kind, zone, "spot")] = "InsufficientInstanceCapacity"
    assert handle_interruption(world, instance_id)["status"] == "no_capacity"
    assert world.commands.sent == [(instance_id, "drain")]


def test_the_agent_drains_even_if_the_launch_raises(monkeypatch):
    world = prepared()
    instance_id = training(world)

    def throttled(_request):
        raise TransientError("later")

    monkeypatch.setattr(world.fleet, "launch", throttled)
    with pytest.raises(TransientError):
        handle_interruption(world, instance_id)
    assert world.commands.sent == [(instance_id, "drain")]


def test_an_agent_that_cannot_be_reached_sees_the_notice_itself():
    world = prepared()
    instance_id = training(world)
    world.commands.unreachable.add(instance_id)
    handled = handle_interruption(world, instance_id)
    assert (handled["status"], handled["agent_reached"]) == ("relaunched", False)


def test_a_run_that_has_ended_is_not_relaunched():
    world = prepared()
    instance_id = training(world)
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="", now=START)
    assert handle_interruption(world, instance_id)["status"] == "already_ended"
    assert len(world.fleet.machines) == 1


def test_a_run_that_ends_during_the_launch_leaves_no_replacement(monkeypatch):
    world = prepared()
    instance_id = training(world)
    launch = world.fleet.launch

    def launch_while_the_run_ends(request):
        world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="", now=START)
        return launch(request)

    monkeypatch.setattr(world.fleet, "launch", launch_while_the_run_ends)
    assert handle_interruption(world, instance_id)["status"] == "not_relaunched"
    assert [machine.instance_id for machine in world.fleet.running()] == [instance_id]


def test_a_rebalance_recommendation_asks_for_a_checkpoint_only():
    world = prepared()
    instance_id = training(world)
    assert handle_rebalance(world, instance_id)["status"] == "asked"
    assert world.commands.sent == [(instance_id, "checkpoint")]
    assert len(world.fleet.machines) == 1
    assert world.ledger.find_attempt(RUN, 1).noticed_at is None


def test_a_rebalance_recommendation_may_come_too_early_or_too_late():
    world = prepared()
    instance_id = training(world)
    world.commands.unreachable.add(instance_id)
    assert handle_rebalance(world, instance_id)["status"] == "agent_not_there"
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=START)
    assert handle_rebalance(world, instance_id)["status"] == "already_ended"


@pytest.mark.parametrize("handle", [handle_interruption, handle_rebalance])
def test_a_foreign_machine_is_left_alone(handle):
    world = World()
    assert handle(world, "i-other") == {"status": "not_ours"}
    assert world.commands.sent == []


def launched_but_not_recorded(world: World) -> str:
    """A machine that EC2 launched, whose launch function stopped before it was recorded."""
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=LAUNCHED_AT_CALL, after=True), RUN, 1)
    (machine,) = world.fleet.running()
    assert world.ledger.find_instance(machine.instance_id) is None
    return machine.instance_id


def test_a_machine_that_is_taken_before_its_launch_is_on_record_is_replaced():
    world = prepared()
    instance_id = launched_but_not_recorded(world)
    assert handle_interruption(world, instance_id)["status"] == "relaunched"
    first, second = world.ledger.attempts(RUN)
    assert first.noticed_at == START
    assert Pool.parse(second.pool) != world.fleet.machines[instance_id].pool


def test_a_machine_that_is_gone_before_its_launch_is_on_record_ends_its_attempt():
    world = prepared()
    instance_id = launched_but_not_recorded(world)
    world.fleet.end(instance_id, reason="Server.SpotInstanceTermination")
    assert handle_instance_change(world, instance_id, "terminated")["status"] == "ended"
    launch = launch_instances(world, RUN, 1)  # the retry of the state
    assert (launch["launched"], launch["outcome"]["kind"]) == (False, "interrupted")


def test_end_of_a_machine_that_the_attempt_does_not_have_changes_nothing():
    world = prepared()
    launched(world)
    surplus = stray(world)
    world.fleet.end(surplus, reason="Client.UserInitiatedShutdown")
    assert handle_instance_change(world, surplus, "terminated") == {"status": "not_ours"}
    assert handle_interruption(world, surplus) == {"status": "not_ours"}
    assert world.ledger.find_attempt(RUN, 1).ended is None
