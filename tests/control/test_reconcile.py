"""Reconcile: whatever event was lost, nothing stays open or running, and nothing needed ends."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.model.errors import TransientError
from runctl.model.identity import RUN_TAG
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from tests.attempts import report
from tests.control.fakes import START
from tests.control.faulty_worlds import CrashError, Fragile
from tests.control.scenes import ARN, REQUEST, RUN, execution, launched, prepared, stray, training
from tests.control.steps import finish_run, prepare_run, reconcile

MINUTE = timedelta(minutes=1)
NOTHING = {
    "cleaned": [],
    "replaced": [],
    "asked_to_save": [],
    "terminated": [],
    "fleets_deleted": [],
    "failed": [],
}


def over(world, status="FAILED", arn=ARN):
    world.workflow.running.discard(arn)
    if status:
        world.workflow.ended[arn] = status


def beat(world, number, phase):
    report(world.ledger, RUN, number, phase=phase, now=world.clock.now())


def end_attempt(world, number=1, kind=OutcomeKind.LOST):
    now = world.clock.now()
    return world.ledger.end_attempt(RUN, number, outcome=Outcome(kind=kind), now=now)


def test_a_live_run_is_left_alone_however_long_it_takes():
    world = prepared()
    training(world)
    world.clock.advance(timedelta(days=3))
    before = world.ledger.attempts(RUN)
    assert reconcile(world) == {"runs": 1, "machines": 1, **NOTHING}
    assert world.ledger.attempts(RUN) == before
    assert (world.commands.sent, world.fleet.terminated) == ([], [])


def test_summary_that_an_earlier_version_left_behind_is_corrected():
    world = prepared()
    training(world)
    current = world.ledger.find_run(RUN).summary
    assert (current.last, current.running) == (1, {1})
    for left_behind in (None, replace(current, running=frozenset(), interruptions=3)):
        world.ledger.runs[RUN] = replace(world.ledger.find_run(RUN), summary=left_behind)
        assert reconcile(world) == {"runs": 1, "machines": 1, **NOTHING}
        assert world.ledger.find_run(RUN).summary == current


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("SUCCEEDED", RunStatus.FAILED),
        ("FAILED", RunStatus.FAILED),
        ("TIMED_OUT", RunStatus.FAILED),
        ("ABORTED", RunStatus.STOPPED),
    ],
)
def test_a_run_whose_execution_ended_unnoticed_is_cleaned_up(status, ended):
    world = prepared()
    instance_id = training(world)
    over(world, status)
    assert reconcile(world)["cleaned"] == [RUN]
    assert world.ledger.find_run(RUN).ended is ended
    assert world.ledger.find_attempt(RUN, 1).ended is not None
    assert world.commands.sent == [(instance_id, "stop")]
    assert world.notices.subjects == [f"run {RUN} {ended.value}"]
    assert reconcile(world) == {"runs": 0, "machines": 1, **NOTHING}


def test_an_execution_that_is_being_redriven_continues():
    world = prepared()
    over(world, "PENDING_REDRIVE")
    assert reconcile(world)["cleaned"] == []


def test_an_unknown_execution_may_be_too_new_to_be_listed():
    world = prepared()
    over(world, "")
    assert reconcile(world)["cleaned"] == []
    world.clock.advance(15 * MINUTE)
    assert reconcile(world)["cleaned"] == [RUN]
    assert world.ledger.find_run(RUN).reason == "the execution ended unnoticed"


def test_a_run_that_the_index_still_shows_as_open_is_read_again():
    world = prepared()
    finish_run(world, RUN, status="completed", reason="")
    over(world)
    world.clock.advance(timedelta(hours=1))
    world.ledger.list_unsettled_runs = lambda: [RUN, "gone"]
    assert reconcile(world)["cleaned"] == []
    assert world.ledger.find_run(RUN).ended is RunStatus.COMPLETED


def test_an_end_that_could_not_be_announced_is_announced_by_a_later_reconciliation():
    world = prepared()
    world.notices.failure = TransientError("come back later")
    finish_run(world, RUN, status="completed", reason="")
    over(world, "SUCCEEDED")
    world.notices.failure = None
    assert reconcile(world)["cleaned"] == []
    world.clock.advance(5 * MINUTE)
    assert reconcile(world)["cleaned"] == [RUN]
    assert world.notices.subjects == [f"run {RUN} completed"]
    assert reconcile(world) == {"runs": 0, "machines": 0, **NOTHING}


def test_an_end_that_can_never_be_announced_is_given_up_after_a_week():
    world = prepared()
    world.notices.failure = TransientError("come back later")
    finish_run(world, RUN, status="completed", reason="")
    over(world, "SUCCEEDED")
    world.clock.advance(timedelta(days=7))
    assert reconcile(world)["cleaned"] == []


def test_a_machine_of_a_run_that_ended_has_time_for_its_drain_and_no_more():
    world = prepared()
    instance_id = training(world)
    over(world, "ABORTED")
    reconcile(world)
    world.clock.advance(4 * MINUTE)
    assert reconcile(world)["terminated"] == []
    world.clock.advance(MINUTE)
    assert reconcile(world)["terminated"] == [instance_id]
    assert reconcile(world)["terminated"] == []


def test_a_drain_with_a_live_heartbeat_may_take_half_an_hour():
    world = prepared()
    instance_id = training(world)
    over(world, "ABORTED")
    reconcile(world)
    world.clock.advance(20 * MINUTE)
    beat(world, 1, "drain")
    assert reconcile(world)["terminated"] == []
    world.clock.advance(2 * MINUTE)
    assert reconcile(world)["terminated"] == [instance_id]


def test_a_drain_may_take_no_longer_than_that():
    world = prepared()
    instance_id = training(world)
    over(world, "ABORTED")
    reconcile(world)
    world.clock.advance(30 * MINUTE)
    beat(world, 1, "drain")
    assert reconcile(world)["terminated"] == [instance_id]


def test_a_machine_of_an_attempt_that_ended_is_ended_and_the_next_ones_is_not():
    world = prepared()
    first = training(world, 1)
    end_attempt(world)
    second = training(world, 2)
    world.clock.advance(5 * MINUTE)
    assert reconcile(world)["terminated"] == [first]
    assert [machine.instance_id for machine in world.fleet.running()] == [second]


def test_a_machine_below_the_fence_is_ended_after_the_grace():
    world = prepared()
    first = training(world, 1)
    world.clock.advance(timedelta(hours=2))
    training(world, 2)
    assert world.ledger.find_attempt(RUN, 1).ended is None
    world.clock.advance(4 * MINUTE)
    assert reconcile(world)["terminated"] == []
    world.clock.advance(MINUTE)
    assert reconcile(world)["terminated"] == [first]


def test_a_replacement_that_waits_for_its_token_is_kept():
    world = prepared()
    training(world, 1)
    launched(world, 2)
    world.clock.advance(timedelta(hours=2))
    assert reconcile(world)["terminated"] == []


@pytest.mark.parametrize("hours", [0, 1])
def test_after_a_notice_a_machine_is_ended_only_when_its_first_hour_is_over(hours):
    world = prepared()
    instance_id = training(world)
    world.clock.advance(timedelta(hours=hours))
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=world.clock.now())
    end_attempt(world)
    world.clock.advance(10 * MINUTE)
    assert reconcile(world)["terminated"] == ([instance_id] if hours else [])


def test_a_machine_of_an_unknown_run_is_ended_once_it_cannot_be_new():
    world = prepared()
    instance_id = stray(world)
    machine = world.fleet.machines[instance_id]
    world.fleet.machines[instance_id] = replace(machine, tags={RUN_TAG: "unknown"})
    world.clock.advance(14 * MINUTE)
    assert reconcile(world)["terminated"] == []
    world.clock.advance(MINUTE)
    assert reconcile(world)["terminated"] == [instance_id]


@pytest.mark.parametrize("changes", [{"state": "stopped"}, {"launched_at": None}])
def test_a_machine_that_does_not_run_or_whose_age_is_unknown_is_left(changes):
    world = prepared()
    instance_id = training(world)
    end_attempt(world)
    world.fleet.machines[instance_id] = replace(world.fleet.machines[instance_id], **changes)
    world.clock.advance(timedelta(days=1))
    assert reconcile(world)["terminated"] == []


def test_one_broken_run_does_not_stop_the_reconciliation_of_the_others(caplog):
    world = prepared()
    training(world)
    prepare_run(world, execution("run-2"), REQUEST)
    over(world)
    over(world, arn="arn:run-2")
    find_run = world.ledger.find_run

    def find(run_id):
        if run_id == RUN:
            raise KeyError("request")
        return find_run(run_id)

    world.ledger.find_run = find
    done = reconcile(world)
    assert (done["cleaned"], done["failed"]) == (["run-2"], [RUN])
    assert f"{RUN} could not be reconciled" in caplog.text
    world.ledger.find_run = find_run
    assert reconcile(world)["cleaned"] == [RUN]


def test_a_reconciliation_that_sees_no_machines_is_an_error():
    world = prepared()

    def find_all():
        raise TransientError("come back later")

    world.fleet.find_all = find_all
    with pytest.raises(TransientError):
        reconcile(world)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 16))
def test_a_reconciliation_that_stopped_halfway_is_completed_by_the_next(fuse, after):
    world = prepared()
    training(world)
    launched(world, 2)
    over(world)
    try:
        reconcile(Fragile(world, fuse=fuse, after=after))
    except CrashError:
        world.clock.advance(15 * MINUTE)
    reconcile(world)
    world.clock.advance(15 * MINUTE)
    reconcile(world)
    assert world.ledger.find_run(RUN).ended_at >= START
    assert all(attempt.ended for attempt in world.ledger.attempts(RUN))
    assert world.fleet.running() == []
