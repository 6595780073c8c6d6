"""The life of an attempt: real trainers, a real agent process, every way in which it can end."""

from __future__ import annotations

import pytest

from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

SAVES_ONCE = """
    import os, pathlib
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    (folder / "epoch-7.bin").write_bytes(b"weights")
    (pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"]) / "model.txt").write_text("done")
    print("trained")
"""


def test_completed_trainer_is_saved_reported_and_the_instance_shuts_down(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(SAVES_ONCE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    assert cloud.outcome() == {"kind": "completed", "reason": "", "exit_code": 0, "step": 7}
    assert machine.wait() == 0
    assert machine.shut_down
    assert cloud.run().step == 7
    assert cloud.read("runs/run-1/outputs/model.txt") == b"done"
    assert "trained" in cloud.log("run-1/0001")
    assert {"booted", "started", "exited", "committed"} <= set(cloud.attempt().timeline)
    assert wait_until(lambda: cloud.keys("runs/run-1/logs/")) == ["runs/run-1/logs/0001-agent.log"]
