"""Warm instances as the functions of the control plane see them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.control.ending_groups import end_group
from runctl.control.execution_start import ExecutionStart
from runctl.control.reconcile import left_over_machines
from runctl.model.errors import RunEndedError
from runctl.model.group import Group, WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.pool import MachineKind
from runctl.model.root_volume import RootVolume
from tests.control.fakes import START, World
from tests.control.scenes import REQUEST
from tests.control.steps import (
    clean_up,
    confirm_checkpoint,
    finish_run,
    handle_instance_change,
    handle_interruption,
    launch_instances,
    prepare_run,
    reconcile,
    train,
)

GIB = 2**30
DONE = {"kind": "completed", "exit_code": 0}


@pytest.fixture
def world():
    world = World(zones=("us-east-1a",))
    world.groups.create_group(
        Group(group_id="g", kind="sweep", execution="g", execution_arn="arn:g", started_at=START)
    )
    world.workflow.running.add("arn:g")
    return world


def begin(world, run_id="g-1", **request):
    """Launch and train a run; return its instance."""
    prepare_run(
        world,
        ExecutionStart(arn=f"arn:{run_id}", name=run_id, started_at=START),
        {**REQUEST, "group": "g", **request},
    )
    world.workflow.running.add(f"arn:{run_id}")
    launch_instances(world, run_id, 1)
    token = f"token-{run_id}"
    world.workflow.valid.add(token)
    train(world, run_id, 1, token=token, execution_arn=f"arn:{run_id}")
    return world.ledger.find_attempt(run_id, 1).instance_ids[0]


def offer(world, run_id, instance_id, disk_bytes=GIB):
    world.groups.offer_warm(
        WarmInstance(
            group_id="g",
            instance_id=instance_id,
            node=NodeId(run_id, 1, 0),
            disk_bytes=disk_bytes,
        )
    )


def end(world, run_id="g-1", outcome=None, status="completed", **options):
    instance_id = world.ledger.find_attempt(run_id, 1).instance_ids[0]
    offer(world, run_id, instance_id, **options)
    confirm_checkpoint(world, run_id, 1, outcome or DONE)
    finish_run(world, run_id, status=status, reason="done", execution_arn=f"arn:{run_id}")
    return world.groups.find_warm("g", instance_id)


def test_a_run_takes_the_instance_of_the_one_before(world):
    first = begin(world)
    warm = end(world)
    assert warm.stage is WarmStage.WAITING
    assert warm.pool == world.ledger.find_attempt("g-1", 1).pool
    assert begin(world, "g-2") == first
    assert len(world.fleet.requests) == 1
    assert world.ledger.find_attempt("g-2", 1).plan == "a warm instance of the group"


@pytest.mark.parametrize(
    ("before", "after", "is_claimed"),
    [(True, False, False), (True, True, True), (False, True, True), (False, False, True)],
)
def test_only_a_root_run_takes_the_instance_of_a_root_run(world, before, after, is_claimed):
    first = begin(world, root=before)
    assert end(world).stage is WarmStage.WAITING
    assert (begin(world, "g-2", root=after) == first) is is_claimed


def test_an_offer_that_names_another_run_than_the_instances_own_is_not_claimed(world):
    first = begin(world, root=True)
    end(world)
    begin(world, "g-2")
    held = world.groups.find_warm("g", first)
    # What a program that is root can write with the credentials of its agent.
    world.groups.warm[("g", first)] = replace(held, node=NodeId("g-2", 1, 0))
    assert begin(world, "g-3") != first


def test_a_repeated_launch_finds_the_claim(world):
    begin(world)
    end(world)
    second = begin(world, "g-2")
    assert launch_instances(world, "g-2", 1)["launched"]
    assert world.ledger.find_attempt("g-2", 1).instance_ids == (second,)
    assert len(world.fleet.requests) == 1


@pytest.mark.parametrize(
    ("outcome", "stage"),
    [
        ({"kind": "failed", "exit_code": 3}, WarmStage.WAITING),
        ({"kind": "stopped", "exit_code": 0}, WarmStage.WAITING),
        ({"kind": "failed", "reason": "no such script"}, WarmStage.OFFERED),
        ({"kind": "failed", "exit_code": 1, "is_disk_full": True}, WarmStage.OFFERED),
        ({"kind": "interrupted", "exit_code": 0}, WarmStage.OFFERED),
    ],
)
def test_how_the_program_ended_decides_whether_the_instance_waits(world, outcome, stage):
    begin(world)
    assert end(world, outcome=outcome, status="failed").stage is stage


def test_an_instance_that_was_not_offered_is_not_claimed(world):
    first = begin(world)
    confirm_checkpoint(world, "g-1", 1, DONE)
    finish_run(world, "g-1", status="completed", reason="done")
    assert begin(world, "g-2") != first


@pytest.mark.parametrize(
    "request_",
    [{"instance_types": ["c5.large"]}, {"market": "on-demand"}],
)
def test_an_instance_that_does_not_fit_is_not_claimed(world, request_):
    first = begin(world, instance_types=["m5.large"])
    end(world)
    assert begin(world, "g-2", **request_) != first


def test_a_disk_that_is_too_small_does_not_fit(world):
    world.fleet.volumes = {
        MachineKind.X86_CPU: RootVolume(device="/dev/sda1", gib=50, throughput=125, iops=3000)
    }
    first = begin(world)
    end(world, disk_bytes=49 * GIB)
    assert begin(world, "g-2") == first
    end(world, "g-2", disk_bytes=40 * GIB)
    assert world.groups.find_warm("g", first).disk_bytes == 40 * GIB
    assert begin(world, "g-3") != first


def test_nothing_claims_an_instance_whose_agent_may_have_left(world):
    first = begin(world)
    end(world)
    world.clock.advance(timedelta(seconds=121))
    assert begin(world, "g-2") != first


def test_nothing_claims_an_instance_that_ec2_shows_as_gone(world):
    first = begin(world)
    end(world)
    world.fleet.end(first, reason="Server.SpotInstanceTermination")
    assert begin(world, "g-2") != first


def test_a_group_that_is_to_stop_keeps_nothing(world):
    begin(world)
    world.groups.request_stop("g")
    assert end(world).stage is WarmStage.LEFT


def test_a_run_that_was_stopped_meanwhile_keeps_nothing(world):
    first = begin(world)
    clean_up(world, execution_arn="arn:g-1", name="g-1", status="ABORTED")
    offer(world, "g-1", first)
    finish_run(world, "g-1", status="completed", reason="done")
    assert world.groups.find_warm("g", first).stage is WarmStage.OFFERED


def test_the_clean_up_of_one_run_leaves_the_next_one_alone(world):
    first = begin(world)
    end(world, outcome={"kind": "failed", "exit_code": 3}, status="failed")
    begin(world, "g-2")
    world.commands.sent.clear()
    cleaned = clean_up(world, execution_arn="arn:g-1", name="g-1", status="FAILED")
    assert (cleaned["asked_to_stop"], cleaned["terminated"]) == ([], [])
    assert world.commands.sent == []
    assert world.fleet.machines[first].is_live


def test_the_clean_up_of_a_run_leaves_its_warm_instance_alone(world):
    end_instance = begin(world)
    end(world, outcome={"kind": "failed", "exit_code": 3}, status="failed")
    clean_up(world, execution_arn="arn:g-1", name="g-1", status="FAILED")
    assert world.commands.sent == []
    assert world.groups.find_warm("g", end_instance).stage is WarmStage.WAITING


def test_a_lost_attempt_on_a_warm_instance_ends_its_machine(world):
    first = begin(world)
    end(world)
    begin(world, "g-2")
    confirm_checkpoint(world, "g-2", 1, {"kind": "lost", "reason": "silence"})
    assert world.fleet.terminated == [first]


def test_a_notice_makes_a_warm_instance_unusable(world):
    first = begin(world)
    end(world)
    handled = handle_interruption(world, first)
    assert handled["status"] == "already_ended"
    assert world.groups.find_warm("g", first).stage is WarmStage.LEFT
    assert begin(world, "g-2") != first
    assert world.fleet.terminated == []


def test_a_notice_between_claim_and_start_relaunches_the_next_run(world):
    first = begin(world)
    end(world)
    begin(world, "g-2")
    assert handle_interruption(world, first)["run_id"] == "g-2"
    assert world.ledger.find_attempt("g-2", 2).instance_ids


def test_an_instance_that_goes_while_it_waits_is_not_claimed(world):
    first = begin(world)
    end(world)
    world.fleet.end(first, reason="Server.SpotInstanceTermination")
    handle_instance_change(world, first, "terminated")
    assert world.groups.find_warm("g", first).stage is WarmStage.LEFT


def test_a_claimed_instance_that_goes_is_lost_for_its_next_run(world):
    first = begin(world)
    end(world)
    begin(world, "g-2")
    world.fleet.end(first, reason="Server.SpotInstanceTermination")
    changed = handle_instance_change(world, first, "terminated")
    assert (changed["run_id"], changed["status"]) == ("g-2", "reported")


def test_the_end_of_the_group_dismisses_what_waits_and_stops_its_members(world):
    first = begin(world)
    end(world)
    second = begin(world, "g-2", instance_types=["c5.large"])
    ended = end_group(world, "g", status=RunStatus.STOPPED, reason="enough")
    assert (ended.left, ended.stopped) == ((first,), ("g-2",))
    assert world.groups.find_warm("g", first).stage is WarmStage.LEFT
    assert world.workflow.ended["arn:g-2"] == "ABORTED"
    assert second != first
    assert world.notices.subjects == ["sweep g stopped"]
    assert end_group(world, "g", status=RunStatus.STOPPED, reason="enough").left == ()
    assert world.notices.subjects == ["sweep g stopped"]


def test_another_execution_does_not_end_a_group(world):
    with pytest.raises(RunEndedError):
        end_group(world, "g", status=RunStatus.STOPPED, reason="late", execution_arn="arn:another")
    assert world.groups.find_group("g").ended is None


@pytest.mark.parametrize(("status", "ended"), [("ABORTED", "stopped"), ("FAILED", "failed")])
def test_the_clean_up_of_a_parent_ends_its_group(world, status, ended):
    first = begin(world)
    end(world)
    cleaned = clean_up(world, execution_arn="arn:g", name="g", status=status)
    assert (cleaned["group_id"], cleaned["run_status"]) == ("g", ended)
    assert world.groups.find_warm("g", first).stage is WarmStage.LEFT
    assert world.groups.find_group("g").is_settled


def test_the_clean_up_of_a_run_with_the_name_of_a_group_is_that_of_the_run(world):
    cleaned = clean_up(world, execution_arn="arn:run:g", name="g", status="ABORTED")
    assert cleaned["status"] == "not_ours"
    assert world.groups.find_group("g").ended is None


def test_runs_of_a_group_are_not_announced_one_by_one(world):
    begin(world)
    end(world)
    assert world.notices.sent == []
    assert world.ledger.find_run("g-1").is_settled


def test_a_run_of_an_unknown_group_is_refused(world):
    with pytest.raises(Exception, match="group: there is no group nowhere"):
        begin(world, group="nowhere")


# Reconciliation.


def left_over(world):
    return [each.instance_id for each in left_over_machines(world, "g-1", world.fleet.find_all())]


def test_a_warm_instance_is_wanted_until_its_time_is_up(world):
    first = begin(world)
    end(world)
    world.clock.advance(timedelta(minutes=6))
    assert left_over(world) == []
    world.clock.advance(timedelta(minutes=2))
    assert left_over(world) == [first]


def test_an_instance_at_work_for_another_run_is_wanted(world):
    begin(world)
    end(world)
    begin(world, "g-2")
    world.clock.advance(timedelta(hours=3))
    assert left_over(world) == []


def test_a_dismissed_instance_that_stays_is_terminated(world):
    first = begin(world)
    end(world)
    end_group(world, "g", status=RunStatus.COMPLETED, reason="done")
    world.clock.advance(timedelta(minutes=6))
    assert reconcile(world)["terminated"] == [first]


def test_a_group_whose_parent_ended_unnoticed_is_ended(world):
    first = begin(world)
    end(world)
    world.workflow.running.discard("arn:g")
    world.workflow.ended["arn:g"] = "TIMED_OUT"
    assert "g" in reconcile(world)["cleaned"]
    assert world.groups.find_group("g").ended is RunStatus.FAILED
    assert world.groups.find_warm("g", first).stage is WarmStage.LEFT


def test_a_group_that_goes_on_is_left_alone(world):
    begin(world)
    end(world)
    world.clock.advance(timedelta(minutes=1))
    assert reconcile(world)["cleaned"] == []
    assert world.groups.find_group("g").ended is None


def test_an_attempt_before_a_notice_keeps_the_first_hour_free(world):
    first = begin(world)
    end(world)
    handle_interruption(world, first)
    world.clock.advance(timedelta(minutes=30))
    assert reconcile(world)["terminated"] == []
    world.clock.advance(timedelta(minutes=31))
    assert reconcile(world)["terminated"] == [first]


def test_outcomes_of_a_run_before_do_not_matter_for_the_next(world):
    begin(world)
    end(world)
    begin(world, "g-2")
    attempt = world.ledger.find_attempt("g-2", 1)
    assert attempt.ended is None
    world.ledger.attempt_items["g-1", 1] = replace(
        world.ledger.find_attempt("g-1", 1),
        ended=replace(world.ledger.find_attempt("g-1", 1).ended, kind=OutcomeKind.LOST),
    )
    confirm_checkpoint(world, "g-1", 1, {"kind": "lost"})
    assert world.fleet.terminated == []
