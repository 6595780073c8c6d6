"""The cost of losing a machine at a chosen moment of its life."""

from pathlib import Path

import pytest

from runctl.fault_points import HANG
from runctl.model.outcome import OutcomeKind
from runctl.model.run import Attempt
from tests.e2e.gated import EVERY, GatedRun
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

INTERRUPTED, COMPLETED = OutcomeKind.INTERRUPTED, OutcomeKind.COMPLETED
with_and_without_notice = pytest.mark.parametrize("notice", [True, False], ids=["notice", "none"])


@pytest.fixture
def run(testbed: Testbed, new_name, tmp_path: Path) -> GatedRun:
    testbed.cloud.set_knobs(boot_delay=0.05)
    return GatedRun(testbed, new_name(), tmp_path / "gate")


def kinds(attempts: list[Attempt]) -> list[OutcomeKind]:
    return [attempt.ended.kind for attempt in attempts if attempt.ended is not None]


def booted(testbed: Testbed, instance_id: str) -> bool:
    events = testbed.cloud.events()
    return any(
        event["instance_id"] == instance_id and event["what"] == "booted" for event in events
    )


@with_and_without_notice
def test_machine_reclaimed_during_its_boot(testbed: Testbed, run: GatedRun, notice: bool):
    testbed.cloud.set_knobs(boot_delay=60)
    run.start()
    first = testbed.wait_for_launch(run.run_id, attempt=1)
    testbed.cloud.set_knobs(boot_delay=0.05)
    testbed.cloud.interrupt(first, notice=notice, notice_seconds=1)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert not booted(testbed, first)
    assert attempts[0].timeline == {}
    assert testbed.log(run.run_id, 2)[0] == "from 0"


@with_and_without_notice
def test_machine_reclaimed_during_its_restore(testbed: Testbed, run: GatedRun, notice: bool):
    run.start()
    testbed.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("restore.folder_cleared", HANG)
    testbed.simulate_spot_interruption(run.run_id, attempt=1, notice=False)
    second = testbed.wait_for_launch(run.run_id, attempt=2)
    wait_for(lambda: testbed.attempts(run.run_id)[1].phase == "restore", "a restore")
    run.hold_next("")
    saved = testbed.run(run.run_id).step
    if notice:
        testbed.cloud.interrupt(second, notice_seconds=60)
        wait_for(lambda: testbed.attempts(run.run_id)[1].ended, "a report out of the restore")
    testbed.cloud.interrupt(second, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert "started" not in attempts[1].timeline
    assert attempts[2].resume_step == saved


def test_machine_reclaimed_during_its_drain(testbed: Testbed, run: GatedRun):
    run.hold_next("drain.trainer_ended")
    run.start()
    testbed.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    testbed.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, _ = run.wait_until_held(1)
    saved = testbed.run(run.run_id).step
    testbed.cloud.interrupt(first, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert attempts[1].resume_step >= saved  # what was being sent may have arrived


@with_and_without_notice
def test_replacement_reclaimed_while_the_first_machine_drains(
    testbed: Testbed, run: GatedRun, notice: bool
):
    run.hold_next("drain.begun")
    run.start()
    testbed.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    testbed.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, agent = run.wait_until_held(1)
    second = testbed.wait_for_launch(run.run_id, attempt=2)
    testbed.cloud.interrupt(second, notice=notice, notice_seconds=1)
    wait_for(lambda: testbed.attempts(run.run_id)[1].ended, "the replacement to be given up")
    run.go_on(agent)
    wait_for(lambda: testbed.attempts(run.run_id)[0].ended, "the first to report")
    testbed.cloud.interrupt(first, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert attempts[1].running_at is None or "started" not in attempts[1].timeline
    assert attempts[0].ended is not None
    assert attempts[2].resume_step == attempts[0].ended.step


def test_first_machine_and_replacement_reclaimed_at_once(testbed: Testbed, run: GatedRun):
    run.hold_next("drain.begun")
    run.start()
    testbed.wait_for_training(run.run_id, attempt=1, step=EVERY)
    run.hold_next("")
    testbed.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=60)
    first, _ = run.wait_until_held(1)
    saved = testbed.run(run.run_id).step
    second = testbed.wait_for_launch(run.run_id, attempt=2)
    for instance_id in (first, second):
        testbed.cloud.interrupt(instance_id, notice=False)
    attempts = run.finish()
    assert kinds(attempts) == [INTERRUPTED, INTERRUPTED, COMPLETED], testbed.story(run.run_id)
    assert attempts[2].resume_step >= saved
