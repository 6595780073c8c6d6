"""A boot that takes longer than the heartbeat limit."""

import time
from pathlib import Path

import pytest

from runctl.model.outcome import OutcomeKind
from runctl.policy.heartbeat import USUAL_SILENCE
from tests.e2e.gated import GatedRun
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

# The second machine may be silent for twice as long as the first.
SILENCE, LATE_BOOT, BOOT = 8.0, 15.0, 9.5


def happened(testbed: Testbed, instance_id: str, what: str) -> bool:
    events = testbed.cloud.events()
    return any(event["instance_id"] == instance_id and event["what"] == what for event in events)


def test_a_boot_longer_than_the_heartbeat_costs_one_attempt_and_the_late_machine_leaves(
    testbed: Testbed, new_name, tmp_path: Path
):
    run = GatedRun(testbed, new_name(), tmp_path / "gate")
    # EC2 does not know the first machine when the attempt is given up: it lives on, and boots too
    # late.
    testbed.cloud.set_knobs(
        boot_delay=LATE_BOOT,
        not_found_for=60,
        heartbeat_scale=SILENCE / USUAL_SILENCE.total_seconds(),
    )
    run.start()
    first = testbed.wait_for_launch(run.run_id, attempt=1)
    testbed.cloud.set_knobs(not_found_for=0, boot_delay=BOOT)
    second = testbed.wait_for_launch(run.run_id, attempt=2)
    wait_for(lambda: testbed.attempts(run.run_id)[1].has_token, "the clock of the second attempt")
    # It is silent for longer than the first one may be. From then on, a busy machine of ours may
    # take its time to boot it; that the run ends with two attempts is what counts.
    time.sleep(SILENCE + 1)
    testbed.cloud.set_knobs(heartbeat_scale=1)
    wait_for(lambda: happened(testbed, second, "booted"), "the second machine to boot")
    testbed.wait_for_training(run.run_id, attempt=2)
    late = testbed.cloud.wait_for_state(first, "terminated")
    assert happened(testbed, first, "booted")
    assert late["ended_by"] == "shut down from inside"
    attempts = run.finish()
    lost, completed = [attempt.ended for attempt in attempts if attempt.ended]
    assert lost.kind is OutcomeKind.LOST, testbed.story(run.run_id)
    assert "no heartbeat for 5 minutes" in lost.reason
    assert completed.kind is OutcomeKind.COMPLETED
    assert testbed.log(run.run_id, 1) == []
