"""Status checks: failed machines are replaced, others saved, and idle costs no call."""

from datetime import timedelta

import pytest

from runctl.model.errors import RefusedError, TransientError
from runctl.model.machine import MachineStatus
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind
from tests.attempts import report
from tests.control.fakes import World
from tests.control.scenes import RUN, launched, prepared, training
from tests.control.steps import confirm_checkpoint, decide_next, reconcile

MINUTE = timedelta(minutes=1)


def fail(world: World, instance_id: str, since=10 * MINUTE) -> None:
    at = world.clock.now() - since
    status = MachineStatus(instance_id=instance_id, impaired={"system": at})
    world.fleet.impaired[instance_id] = status


def beat(world: World, number: int = 1) -> None:
    report(world.ledger, RUN, number, phase="train", now=world.clock.now())


def failed_and_silent() -> tuple[World, str]:
    world = prepared()
    instance_id = training(world)
    beat(world)
    world.clock.advance(10 * MINUTE)
    fail(world, instance_id)
    return world, instance_id


def test_a_failed_machine_is_reported_lost_and_the_run_continues():
    world, instance_id = failed_and_silent()
    assert reconcile(world)["replaced"] == [instance_id]
    outcome = world.workflow.reports["token-1"]["outcome"]
    assert outcome["kind"] == "lost"
    assert f"EC2's system status check of {instance_id} fails since" in outcome["reason"]
    confirm_checkpoint(world, RUN, 1, outcome)
    assert world.fleet.terminated == [instance_id]
    assert decide_next(world, RUN, 1, outcome)["decision"] == "relaunch"


def test_a_second_reconciliation_replaces_nothing_more():
    world, _ = failed_and_silent()
    reconcile(world)
    confirm_checkpoint(world, RUN, 1, world.workflow.reports["token-1"]["outcome"])
    assert reconcile(world)["replaced"] == []


def test_a_machine_with_a_live_heartbeat_continues_training_and_saves():
    world, instance_id = failed_and_silent()
    beat(world)
    done = reconcile(world)
    assert (done["replaced"], done["asked_to_save"]) == ([], [instance_id])
    assert world.commands.sent == [(instance_id, "checkpoint")]
    assert world.workflow.reports == {}
    assert world.fleet.terminated == []


def test_an_agent_that_sends_a_heartbeat_between_the_two_checks_is_not_replaced(monkeypatch):
    world, _ = failed_and_silent()
    check = world.fleet.statuses

    def look_while_it_beats(ids):
        beat(world)
        return check(ids)

    monkeypatch.setattr(world.fleet, "statuses", look_while_it_beats)
    assert reconcile(world)["replaced"] == []
    assert world.workflow.reports == {}


def test_a_machine_with_a_notice_is_left_to_ec2():
    world, _ = failed_and_silent()
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=world.clock.now())
    done = reconcile(world)
    assert (done["replaced"], done["asked_to_save"], done["terminated"]) == ([], [], [])
    assert world.fleet.terminated == []


def test_a_machine_that_waits_for_its_token_does_not_count_as_silent():
    world = prepared()
    instance_id = launched(world)
    world.clock.advance(10 * MINUTE)
    fail(world, instance_id)
    assert reconcile(world)["replaced"] == []
    assert world.ledger.find_attempt(RUN, 1).ended is None


def test_no_request_is_made_while_no_attempt_is_live():
    world = prepared()
    reconcile(world)
    launched(world)
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.LOST), now=world.clock.now())
    reconcile(world)
    assert world.fleet.asked_for_statuses == []


@pytest.mark.parametrize("error", [TransientError("throttled"), RefusedError("not permitted")])
def test_unavailable_status_checks_do_not_stop_the_rest_of_reconciliation(monkeypatch, error):
    world, _ = failed_and_silent()

    def refuse(_ids):
        raise error

    monkeypatch.setattr(world.fleet, "statuses", refuse)
    done = reconcile(world)
    assert done["failed"] == ["status checks"]
    assert done["machines"] == 1


def test_a_heartbeat_that_expired_on_a_failed_machine_says_so():
    world = prepared()
    instance_id = training(world)
    fail(world, instance_id, since=MINUTE)
    lost = {"kind": "lost", "reason": "no heartbeat for 5 minutes"}
    reason = confirm_checkpoint(world, RUN, 1, lost)["outcome"]["reason"]
    assert reason.startswith("no heartbeat for 5 minutes; EC2's system status check of")


def test_an_unavailable_explanation_delays_nothing(monkeypatch):
    world = prepared()
    training(world)

    def refuse(_ids):
        raise RefusedError("not permitted")

    monkeypatch.setattr(world.fleet, "statuses", refuse)
    lost = {"kind": "lost", "reason": "no heartbeat for 5 minutes"}
    assert confirm_checkpoint(world, RUN, 1, lost)["outcome"]["kind"] == "lost"
