"""A run on real machines, from a notice and a shutdown to its end on the next machine."""

from __future__ import annotations

import pytest

from runctl.model.outcome import OutcomeKind
from tests.e2e.testbed import wait_for
from tests.machine.machines import Machines

pytestmark = pytest.mark.e2e
# In this order, when systemd stops the units.
DRAIN = (
    "System is powering down",
    "SIGTERM to",
    "the trainer exited with 0",
    "committed step",
    "reported interrupted at step",
    "Stopped runctl-agent.service",
)


def test_a_run_completes_on_another_machine_after_a_notice_and_after_a_shutdown(
    machines: Machines,
) -> None:
    run = machines.start()
    run.wait_for_training(step=5)
    run.testbed.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=15)

    second = run.wait_for_training(attempt=2)
    second.run("systemctl", "--no-block", "poweroff")
    run.wait_for_training(attempt=3)
    attempts = run.finish()

    story = run.testbed.story(run.run_id)
    assert [attempt.ended.kind for attempt in attempts if attempt.ended] == [
        OutcomeKind.INTERRUPTED,
        OutcomeKind.INTERRUPTED,
        OutcomeKind.COMPLETED,
    ], story
    assert attempts[1].resume_step is not None, story
    wait_for(lambda: not second.is_on, "the second machine to be off")
    lines = iter(second.journal())
    # systemd has touched neither the trainer nor the metadata fence before the agent had saved.
    missing = [what for what in DRAIN if not any(what in line for line in lines)]
    assert not missing, "\n".join(second.journal()[-100:])
    assert any("Stopped runctl-fence.service" in line for line in lines)
