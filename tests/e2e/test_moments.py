"""A machine is taken at a chosen moment of its life, and what that costs."""

from pathlib import Path

import pytest

from runctl.fault_points import HANG
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt
from tests.e2e.gated import EVERY, GatedRun
from tests.e2e.testbed import Stage, wait_for

pytestmark = pytest.mark.e2e

INTERRUPTED, COMPLETED = OutcomeKind.INTERRUPTED, OutcomeKind.COMPLETED
with_and_without_notice = pytest.mark.parametrize("notice", [True, False], ids=["notice", "none"])


@pytest.fixture
def run(stage: Stage, new_name, tmp_path: Path) -> GatedRun:
    stage.cloud.set_knobs(boot_delay=0.05)
    return GatedRun(stage, new_name(), tmp_path / "gate")


def kinds(attempts: list[Attempt]) -> list[OutcomeKind]:
    return [one.ended.kind for one in attempts if one.ended is not None]


def booted(stage: Stage, instance_id: str) -> bool:
    events = stage.cloud.events()
    return any(one["instance_id"] == instance_id and one["what"] == "booted" for one in events)


@with_and_without_notice
def test_taken_while_it_boots(stage: Stage, run: GatedRun, notice: bool):
    stage.cloud.set_knobs(boot_delay=60)
    run.start()
    first = stage.wait_for_launch(run.run_id, attempt=1)
    stage.cloud.set_knobs(boot_delay=0.05)
    stage.cloud.interrupt(first, notice=notice, notice_seconds=1)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], stage.story(run.run_id)
    assert not booted(stage, first)
    assert attempts[0].timeline == {}
    assert stage.log(run.run_id, 2)[0] == "from 0"


@with_and_without_notice
def test_taken_in_the_middle_of_its_restore(stage: Stage, run: GatedRun, notice: bool):
    run.start()
    stage.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("restore.folder_cleared", HANG)
    stage.simulate_spot_interruption(run.run_id, attempt=1, notice=False)
    second = stage.wait_for_launch(run.run_id, attempt=2)
    wait_for(lambda: stage.attempts(run.run_id)[1].phase == "restore", "a restore")
    run.hold_next("")
    saved = stage.run(run.run_id).step
    if notice:
        stage.cloud.interrupt(second, notice_seconds=60)
        wait_for(lambda: stage.attempts(run.run_id)[1].ended, "a report out of the restore")
    stage.cloud.interrupt(second, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], stage.story(run.run_id)
    assert "started" not in attempts[1].timeline
    assert attempts[2].resume_step == saved


def test_taken_before_its_drain_is_done(stage: Stage, run: GatedRun):
    run.hold_next("drain.trainer_ended")
    run.start()
    stage.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    stage.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, _ = run.wait_until_held(1)
    saved = stage.run(run.run_id).step
    stage.cloud.interrupt(first, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], stage.story(run.run_id)
    assert attempts[1].resume_step >= saved  # what was on its way may have arrived


@with_and_without_notice
def test_the_replacement_is_taken_while_the_first_still_drains(
    stage: Stage, run: GatedRun, notice: bool
):
    run.hold_next("drain.begun")
    run.start()
    stage.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    stage.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, agent = run.wait_until_held(1)
    second = stage.wait_for_launch(run.run_id, attempt=2)
    stage.cloud.interrupt(second, notice=notice, notice_seconds=1)
    wait_for(lambda: stage.attempts(run.run_id)[1].ended, "the replacement to be given up")
    run.go_on(agent)
    wait_for(lambda: stage.attempts(run.run_id)[0].ended, "the first to report")
    stage.cloud.interrupt(first, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], stage.story(run.run_id)
    assert attempts[1].training_at is None or "started" not in attempts[1].timeline
    assert attempts[0].ended is not None
    assert attempts[2].resume_step == attempts[0].ended.step


def test_first_and_replacement_are_taken_at_once(stage: Stage, run: GatedRun):
    run.hold_next("drain.begun")
    run.start()
    stage.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    stage.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, _ = run.wait_until_held(1)
    saved = stage.run(run.run_id).step
    second = stage.wait_for_launch(run.run_id, attempt=2)
    for instance_id in (first, second):
        stage.cloud.interrupt(instance_id, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], stage.story(run.run_id)
    assert attempts[2].resume_step >= saved
