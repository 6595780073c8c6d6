"""Machines that were there before the run: made, used, reclaimed, watched over and ended."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.model.identity import KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.outcome import OutcomeKind
from tests.e2e.stage import PROJECT, Stage, wait_for

pytestmark = pytest.mark.e2e
TRAINING = PROJECT / "examples" / "training"
TRAINER = "train_with_checkpoints.py"


class Program:
    """`runctl` as a person types it, in a project folder, on the stage's cloud."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._folder = folder
        self._environ = {
            **os.environ, **stage.endpoint.environment(), "PYTHONPATH": str(PROJECT)
        }  # fmt: skip

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "runctl.cli.main", *words],
            check=False,
            cwd=self._folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def runctl(stage: Stage, tmp_path: Path) -> Program:
    (tmp_path / TRAINER).write_bytes((TRAINING / TRAINER).read_bytes())
    (tmp_path / ".runctl.toml").write_text("")
    return Program(stage, tmp_path)


def test_a_run_begins_on_a_created_machine_and_goes_on_elsewhere_when_that_is_reclaimed(
    stage: Stage, runctl: Program, new_name
):
    stage.cloud.set_knobs(agent_delay=1.0)
    machine = runctl(
        "aws", "create", "--spot", "--instance-type", "m5.large", "--keep-alive", "2",
        "--output", "instance-id",
    ).strip()  # fmt: skip
    held = stage.cloud.instance(machine)
    assert KEEP_ALIVE_TAG in held["tags"]
    assert RUN_TAG not in held["tags"]

    run_id = new_name()
    runctl(
        "aws", "train", "--detach", "--name", run_id, machine,
        TRAINER, "--steps", "100", "--step-seconds", "0.1",
    )  # fmt: skip
    first = stage.wait_for_training(run_id, attempt=1, step=0)
    assert first.instance_ids == (machine,)
    busy = runctl("aws", "train", "--detach", machine, TRAINER, code=2)
    assert f"attempt 1 of the run {run_id}" in busy
    assert f"runctl stop {run_id}" in runctl("aws", "terminate", "--yes", machine, code=2)

    stage.simulate_spot_interruption(run_id, attempt=1, notice_seconds=15)
    ended = stage.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", stage.story(run_id)
    one, two = stage.attempts(run_id)
    assert one.ended.kind is OutcomeKind.INTERRUPTED
    assert two.ended.kind is OutcomeKind.COMPLETED
    assert two.instance_ids != (machine,)
    assert two.resume_step is not None
    assert stage.result(run_id)["step"] == 100


def test_a_created_machine_outlives_its_runs_and_takes_the_next_one(
    stage: Stage, runctl: Program, new_name
):
    machine = json.loads(
        runctl("--json", "aws", "create", "--instance-type", "m5.large", "--keep-alive", "1")
    )["instance_id"]
    for _ in range(2):
        run_id = new_name()
        runctl(
            "aws", "train", "--detach", "--name", run_id, machine,
            TRAINER, "--steps", "5", "--step-seconds", "0.05",
        )  # fmt: skip
        ended = stage.wait_for_training_completion(run_id)
        assert ended.output["status"] == "completed", stage.story(run_id)
        (attempt,) = stage.attempts(run_id)
        assert attempt.instance_ids == (machine,)
        assert attempt.resume_step is None
        assert stage.cloud.instance(machine)["state"] == "running"
    runctl("aws", "terminate", "--yes", machine)
    wait_for(
        lambda: stage.cloud.instance(machine)["state"] == "terminated",
        f"{machine} to end",
        timeout=timedelta(seconds=30),
    )
    assert "terminated" in runctl("aws", "terminate", "--yes", machine)
