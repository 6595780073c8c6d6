"""FinishRun and CleanUp: the run ends once, and nothing of it is left running."""

import contextlib
from datetime import timedelta

import pytest

from runctl.model.errors import RunEndedError, TransientError
from runctl.model.node import NodeId
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from tests.attempts import report
from tests.control.fakes import START, World
from tests.control.faulty_worlds import CrashError, Fragile
from tests.control.scenes import ARN, RUN, execution, launched, prepared, stray, training
from tests.control.steps import (
    clean_up,
    confirm_checkpoint,
    finish_run,
    launch_instances,
    prepare_run,
    reconcile,
)


def finish(world, status="completed"):
    return finish_run(world, RUN, status=status, reason="the trainer is done")


def clean(world, status="ABORTED", name=RUN, cause=""):
    return clean_up(world, execution_arn=f"arn:{name}", name=name, status=status, cause=cause)


def test_the_result_says_where_everything_is():
    world = prepared()
    training(world)
    world.ledger.commit_checkpoint(
        RUN, 1, step=40, save=40, manifest="runs/run-1/40.json", progressed=True, now=START
    )
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=START)
    assert finish(world) == {
        "run_id": RUN,
        "status": "completed",
        "reason": "the trainer is done",
        "step": 40,
        "save": 40,
        "attempts": 1,
        "checkpoint": "s3://bucket/runs/run-1/40.json",
        "outputs": "s3://bucket/runs/run-1/outputs/",
    }


def test_the_metrics_of_the_program_are_part_of_the_result():
    world = prepared()
    training(world)
    world.ledger.record_metrics(RUN, 1, {"accuracy": 0.5})
    assert finish(world)["metrics"] == {"accuracy": 0.5}


def test_a_run_without_checkpoint_has_none_in_its_result():
    result = finish(prepared(), "failed")
    assert (result["checkpoint"], result["step"], result["attempts"]) == (None, None, 0)


def test_the_end_that_came_first_is_the_result():
    world = prepared()
    clean(world)
    assert finish(world)["status"] == "stopped"


def test_a_replacement_launched_inside_the_notice_ends_with_the_run():
    world = prepared()
    first = training(world, 1)
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=START)
    second = launched(world, 2)
    finish(world)
    assert world.fleet.terminated == [second]
    assert world.ledger.find_attempt(RUN, 2).ended.kind is OutcomeKind.STOPPED
    assert [machine.instance_id for machine in world.fleet.running()] == [first]


def test_a_replacement_with_its_own_notice_is_left_to_ec2_in_its_first_hour():
    world = prepared()
    second = launched(world, 2)
    world.ledger.record_notice(NodeId(RUN, 2, 0), now=START)
    finish(world)
    assert world.fleet.terminated == []
    world.clock.advance(timedelta(hours=1))
    finish(world)
    assert world.fleet.terminated == [second]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fuse", range(1, 12))
def test_a_finish_that_stopped_halfway_is_resumed(fuse, after):
    world = prepared()
    launched(world, 1)
    launched(world, 2)
    with contextlib.suppress(CrashError):
        finish(Fragile(world, fuse=fuse, after=after))
    assert finish(world)["status"] == "completed"
    assert world.fleet.running() == []
    assert set(world.notices.subjects) == {"run run-1 completed"}


def test_a_machine_that_was_never_recorded_ends_with_the_run():
    world = prepared()
    with pytest.raises(CrashError):
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    assert world.ledger.find_attempt(RUN, 1).instance_ids == ()
    finish(world)
    assert world.fleet.running() == []


def test_a_second_machine_of_an_attempt_that_reported_ends_with_the_run():
    world = prepared()
    training(world)
    second = stray(world)
    world.ledger.end_attempt(RUN, 1, outcome=Outcome(kind=OutcomeKind.COMPLETED), now=START)
    finish(world)
    assert world.fleet.terminated == [second]


def test_the_run_ends_before_its_attempts_so_that_nothing_is_launched_in_between():
    world = prepared()
    launched(world)
    with pytest.raises(CrashError):
        finish(Fragile(world, fuse=2, after=False))
    assert world.ledger.find_run(RUN).ended is RunStatus.COMPLETED
    assert world.ledger.find_attempt(RUN, 1).ended is None


def test_a_stopped_execution_lets_the_trainer_save_and_leave():
    world = prepared()
    instance_id = training(world)
    cleaned = clean(world)
    assert cleaned == {
        "run_id": RUN,
        "status": "cleaned",
        "run_status": "stopped",
        "attempts_ended": [1],
        "asked_to_stop": [instance_id],
        "terminated": [],
    }
    assert world.commands.sent == [(instance_id, "stop")]
    assert world.ledger.find_run(RUN).reason == "the execution was stopped"


def test_a_machine_that_does_not_train_yet_is_terminated():
    world = prepared()
    instance_id = launched(world)
    assert clean(world)["terminated"] == [instance_id]
    assert world.commands.sent == []


def test_a_machine_that_cannot_be_reached_is_terminated():
    world = prepared()
    instance_id = training(world)
    world.commands.unreachable.add(instance_id)
    assert clean(world)["terminated"] == [instance_id]


def test_a_machine_with_a_notice_is_left_to_ec2_during_its_first_hour():
    world = prepared()
    instance_id = training(world)
    world.commands.unreachable.add(instance_id)
    world.ledger.record_notice(NodeId(RUN, 1, 0), now=START)
    cleaned = clean(world)
    assert (cleaned["asked_to_stop"], cleaned["terminated"]) == ([], [])


def test_an_agent_that_reported_its_end_is_not_cut_short():
    world = prepared()
    instance_id = training(world)
    world.commands.unreachable.add(instance_id)
    confirm_checkpoint(world, RUN, 1, {"kind": "completed", "reason": ""})
    finish(world)
    cleaned = clean(world, "SUCCEEDED")
    assert (cleaned["run_status"], cleaned["terminated"]) == ("completed", [])


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT"])
def test_an_execution_that_failed_fails_its_run_with_the_cause(status):
    world = prepared()
    assert clean(world, status, cause="boom")["run_status"] == "failed"
    assert world.ledger.find_run(RUN).reason == "boom"


@pytest.mark.parametrize(
    ("status", "kind"), [("FAILED", OutcomeKind.FAILED), ("ABORTED", OutcomeKind.STOPPED)]
)
def test_an_attempt_without_a_machine_ends_as_its_execution_did(status, kind):
    world = prepared()
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=8, after=False), RUN, 1)
    clean(world, status, cause="RefusedError: the permission ec2:DescribeSubnets was refused")
    ended = world.ledger.find_attempt(RUN, 1).ended
    assert (ended.kind, ended.reason) == (kind, "the permission ec2:DescribeSubnets was refused")


def test_a_machine_that_no_attempt_knows_is_ended_with_a_failed_execution():
    world = prepared()
    with contextlib.suppress(CrashError):
        launch_instances(Fragile(world, fuse=8, after=True), RUN, 1)
    (instance_id,) = world.fleet.machines
    assert clean(world, "FAILED", cause="boom")["terminated"] == [instance_id]


def test_an_unexpected_error_keeps_its_name():
    world = prepared()
    clean(world, "FAILED", cause="KeyError: 'zone'")
    assert world.ledger.find_run(RUN).reason == "KeyError: 'zone'"


def test_a_second_clean_up_finds_nothing_to_do():
    world = prepared()
    launched(world)
    clean(world)
    again = clean(world, "FAILED")
    assert (again["run_status"], again["attempts_ended"], again["terminated"]) == (
        "stopped",
        [],
        [],
    )


def test_a_late_event_of_an_earlier_execution_spares_the_one_that_continued_the_run():
    world = prepared()
    clean(world)
    world.workflow.running.discard(ARN)
    prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
    launched(world, 1)
    assert clean(world) == {"run_id": RUN, "status": "superseded"}
    assert world.ledger.find_run(RUN).ended is None
    assert len(world.fleet.running()) == 1


def test_a_foreign_execution_is_left_alone():
    assert clean(World()) == {"status": "not_ours"}


def test_the_end_is_announced_once_with_the_location_of_everything():
    world = prepared()
    training(world)
    world.ledger.commit_checkpoint(
        RUN, 1, step=40, save=40, manifest="runs/run-1/40.json", progressed=True, now=START
    )
    finish(world)
    finish(world)
    clean(world, "SUCCEEDED")
    subject, body = world.notices.sent[0]
    assert world.notices.subjects == [subject] == ["run run-1 completed"]
    assert body.splitlines() == [
        "run: run-1",
        "status: completed",
        "reason: the trainer is done",
        "attempts: 1",
        "step: 40",
        "checkpoint: s3://bucket/runs/run-1/40.json",
        "outputs: s3://bucket/runs/run-1/outputs/",
    ]


def test_a_run_without_checkpoint_says_so_in_its_message():
    world = prepared()
    finish(world, "failed")
    ((_, body),) = world.notices.sent
    assert "step: none\ncheckpoint: none\n" in body


def test_a_stop_is_announced_by_the_clean_up_alone():
    world = prepared()
    training(world)
    clean(world)
    clean(world)
    assert world.notices.subjects == ["run run-1 stopped"]


@pytest.mark.parametrize("failure", [TransientError("come back later"), KeyError("any defect")])
def test_a_message_that_cannot_be_sent_delays_nothing_and_is_sent_by_the_clean_up(failure, caplog):
    world = prepared()
    launched(world)
    world.notices.failure = failure
    assert finish(world)["status"] == "completed"
    assert world.fleet.running() == []
    assert "the notification about the end of the run run-1 failed" in caplog.text
    world.notices.failure = None
    clean(world, "SUCCEEDED")
    assert world.notices.subjects == ["run run-1 completed"]


def test_a_run_that_was_continued_is_announced_again_when_it_ends_again():
    world = prepared()
    clean(world)
    world.workflow.running.discard(ARN)
    prepare_run(world, execution("run-1-r2"), {"run_id": RUN})
    world.clock.advance(timedelta(minutes=5))
    finish(world)
    assert world.notices.subjects == ["run run-1 stopped", "run run-1 completed"]


def test_sns_accepts_the_subject_of_the_longest_name():
    name = "n" * 64
    world = World()
    prepare_run(world, execution(name), {"command": ["train"], "instance_types": ["m5.large"]})
    world.ledger.end_run(name, status=RunStatus.INTERRUPTED, reason="", now=START)
    clean(world, "SUCCEEDED", name)
    (subject,) = world.notices.subjects
    assert subject == f"run {name} interrupted"
    assert len(subject) <= 100


def test_an_agent_that_was_stopped_and_is_done_may_upload_its_outputs():
    world = prepared()
    instance_id = training(world)
    report(world.ledger, RUN, 1, phase="done", now=START)  # the agent's last word
    confirm_checkpoint(world, RUN, 1, {"kind": "stopped", "reason": "by the user"})
    finish_run(world, RUN, status="stopped", reason="by the user")
    assert [machine.instance_id for machine in world.fleet.running()] == [instance_id]
    world.clock.advance(timedelta(minutes=5))
    assert reconcile(world)["terminated"] == [instance_id]


def test_a_finish_in_an_execution_that_no_longer_owns_the_run_ends_nothing():
    world = prepared()
    clean(world)
    world.workflow.running.discard(ARN)
    prepare_run(world, execution(f"{RUN}-r2"), {"run_id": RUN})
    instance_id = launched(world, 1)
    with pytest.raises(RunEndedError, match="belongs to the execution run-1-r2"):
        finish_run(world, RUN, status="stopped", reason="", execution_arn=ARN)
    assert world.ledger.find_run(RUN).ended is None
    assert [machine.instance_id for machine in world.fleet.running()] == [instance_id]
