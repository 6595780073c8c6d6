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


AWARE = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    resume = os.environ.get("RUNCTL_RESUME_STEP")
    step = int(resume) if resume else 0
    print("from", step, sorted(path.name for path in folder.iterdir()), flush=True)
    while step < 400:
        time.sleep(0.05)
        step += 1
        if stop:
            (folder / f"step-{step}.bin").write_bytes(b"x" * 1000 + str(step).encode())
            print("saved", step, flush=True)
            sys.exit(0)
"""


def started(machine) -> bool:
    return (machine.state / "log/trainer.out").exists() and bool(
        (machine.state / "log/trainer.out").read_text()
    )


def test_notice_drains_reports_interrupted_and_leaves_the_instance_to_ec2(
    cloud: Cloud, launch
) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: started(machine))
    machine.metadata.give_notice(seconds=60)
    outcome = cloud.outcome()
    assert outcome["kind"] == "interrupted"
    assert outcome["exit_code"] == 0
    assert outcome["step"] == cloud.run().step > 0
    assert machine.wait() == 0
    assert not machine.shut_down
    timeline = cloud.attempt().timeline
    assert (
        timeline["detected"] <= timeline["sigterm"] <= timeline["exited"] <= timeline["committed"]
    )


def test_next_attempt_prepares_early_and_resumes_with_its_token(cloud: Cloud, launch) -> None:
    cloud.create_run(AWARE)
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: started(first))
    cloud.open_attempt(2)
    second = launch(attempt=2)
    wait_until(lambda: "ready" in str(list(second.state.glob("environments/*/ready"))))
    first.metadata.give_notice(seconds=60)
    step = cloud.outcome()["step"]
    assert not started(second)
    cloud.give_token(2)
    wait_until(lambda: started(second))
    assert (
        (second.state / "log/trainer.out")
        .read_text()
        .startswith(f"from {step} ['step-{step}.bin']")
    )
    wait_until(lambda: cloud.attempt(2).resume_step == step)
    first.wait()
