"""A run that is interrupted at random many times; afterwards everything is accounted for.

`make soak` does it with 50 interruptions; RUNCTL_SOAK_SEED repeats a run's choices.
"""

import json
import os
import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from tests.e2e.books import check_machines, check_parts
from tests.e2e.soak import Soak
from tests.e2e.testbed import PROJECT, Testbed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

PROGRAM = PROJECT / "examples/training/train_with_checkpoints.py"
INTERRUPTIONS = int(os.environ.get("RUNCTL_SOAK_INTERRUPTIONS", "0"))
# Without a number: as many as fit into this time, but each of the 7 kinds at least once.
TIME_BOX = timedelta(seconds=45)
MIN_INTERRUPTIONS, MAX_INTERRUPTIONS = 8, 9
# More steps than happen between two interruptions, so that the run outlasts them all.
STEPS_EACH, STEP_SECONDS = 30, 0.2
# The same trainer, which speeds up after the last interruption.
PACED = """
import os, pathlib, runpy, time
sleep, hurry = time.sleep, pathlib.Path(os.environ["HURRY"])
time.sleep = lambda seconds: sleep(0 if hurry.exists() else seconds)
runpy.run_path(str(pathlib.Path(__file__).with_name("program.py")), run_name="__main__")
"""


def alone(folder: Path, arguments: list[str]) -> bytes:
    """Run the trainer undisturbed on this machine and return its result."""
    environ = {f"RUNCTL_{name}_DIR": str(folder / name) for name in ("CHECKPOINT", "OUTPUT")}
    environ["RUNCTL_METRICS_FILE"] = str(folder / "metrics")
    subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], env=environ, check=True, capture_output=True
    )
    return (folder / "OUTPUT/result.json").read_bytes()


def test_interruptions_at_random_moments_cost_no_bit_and_leave_nothing(
    testbed: Testbed, new_name, tmp_path: Path
):
    seed = int(os.environ.get("RUNCTL_SOAK_SEED") or time.time())
    print(f"RUNCTL_SOAK_SEED={seed}")
    run_id = new_name()
    steps = STEPS_EACH * (INTERRUPTIONS or MAX_INTERRUPTIONS)
    training = ["--steps", str(steps), "--every", "3", "--megabytes", "1"]
    code = testbed.upload_project({"train.py": PACED, "program.py": PROGRAM})
    hurry = tmp_path / "hurry"
    testbed.start(
        {
            "code": code,
            "script": "train.py",
            "args": [*training, "--step-seconds", str(STEP_SECONDS)],
            "env": {"HURRY": str(hurry)},
            "max_attempts": 1000,
        },
        name=run_id,
    )
    testbed.wait_for_training(run_id)
    soak = Soak(testbed, run_id, random.Random(seed))
    began = time.monotonic()
    made = 0
    while made < INTERRUPTIONS or (
        not INTERRUPTIONS
        and (
            made < MIN_INTERRUPTIONS
            or (made < MAX_INTERRUPTIONS and time.monotonic() - began < TIME_BOX.total_seconds())
        )
    ):
        soak.interrupt_once()
        made += 1
        passed = time.monotonic() - began
        save = testbed.run(run_id).save
        print(f"{passed:.0f} s: {made} interruptions, save {save}", file=sys.stderr)
    hurry.touch()
    ended = testbed.wait_for_training_completion(run_id, timeout=timedelta(minutes=30))
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert json.loads(testbed.output(run_id, "result.json")) == json.loads(
        alone(tmp_path, training)
    )
    check_ledger(testbed, run_id, made=made)
    check_machines(testbed, run_id)
    check_parts(testbed, run_id)
    print(f"\n{made} interruptions {dict(soak.done)}, {len(testbed.attempts(run_id))} attempts")


def check_ledger(testbed: Testbed, run_id: str, *, made: int) -> None:
    run, attempts = testbed.run(run_id), testbed.attempts(run_id)
    assert run.ended is RunStatus.COMPLETED
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert all(attempt.ended is not None for attempt in attempts), testbed.story(run_id)
    assert [attempt.ended.kind for attempt in attempts].count(OutcomeKind.COMPLETED) == 1
    trained = [attempt for attempt in attempts if attempt.running_at is not None]
    assert run.fence == trained[-1].number
    assert len(attempts) > made
    # No attempt began before the previous one.
    resumed = [attempt.resume_save for attempt in trained if attempt.resume_save is not None]
    assert resumed
    assert resumed == sorted(resumed)
