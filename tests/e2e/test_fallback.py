"""An incomplete save, and a trainer that fails by itself: the run continues."""

import json
import os

import pytest

from runctl.model.outcome import OutcomeKind
from tests.agent.planting import plant
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

# A folder whose files are written one after another, so that a snapshot may fall in between.
GATHERS = """
import json, os, time
from pathlib import Path

root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
saves = sorted(root.glob("ckpt-*"), key=lambda p: int(p.name[5:]))
step = json.loads((saves[-1] / "b.json").read_text()) if saves else 0
print("from", step, flush=True)
while step < 4:
    step += 1
    to = root / f"ckpt-{step}"
    to.mkdir(exist_ok=True)
    (to / "a.bin").write_bytes(os.urandom(1 << 20))
    time.sleep(0.3)
    (to / "b.json").write_text(json.dumps(step))
    while os.environ["RUNCTL_ATTEMPT"] == "1":
        time.sleep(0.1)
"""

FAILS_ONCE = """
import os, sys
from pathlib import Path

root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
print("from", os.environ["RUNCTL_RESUME_STEP"], flush=True)
(root / f"step-{os.environ['RUNCTL_ATTEMPT']}.bin").write_bytes(os.urandom(1000))
if os.environ["RUNCTL_ATTEMPT"] == "1":
    sys.exit("the network is down")
"""


def committed(testbed: Testbed, run_id: str, step: int) -> bool:
    found = testbed.ledger.find_run(run_id)
    return found is not None and found.step == step


def test_an_incomplete_save_costs_one_step_and_not_the_run(testbed: Testbed):
    code = testbed.upload_project({"train.py": GATHERS})
    run_id = testbed.start({"code": code, "script": "train.py"})
    testbed.create_test_spot_instance(run_id)
    wait_for(lambda: committed(testbed, run_id, 1), "the first save")
    incomplete = plant(
        testbed.stored(run_id),
        {
            "ckpt-1/a.bin": os.urandom(1 << 20),
            "ckpt-1/b.json": json.dumps(1).encode(),
            "ckpt-2/a.bin": os.urandom(1 << 20),
        },
        step=2,
    )
    testbed.simulate_spot_interruption(run_id, attempt=1, notice=False)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    attempts = testbed.attempts(run_id)
    assert len(attempts) == 2, "it was started again on the same machine"
    assert attempts[1].resume_step == 1
    run = testbed.run(run_id)
    assert run.step == 4
    assert incomplete in run.suspects
    assert run.proven not in {None, incomplete}
    assert "from 1" in testbed.log(run_id, 2)
    assert any("restarting it from step 1" in line for line in testbed.agent_log(run_id, 2))


def test_a_failure_that_may_be_retried_resumes_from_the_checkpoint(testbed: Testbed):
    code = testbed.upload_project({"train.py": FAILS_ONCE})
    retry = {"exit_codes": [1], "max_failures": 2}
    run_id = testbed.start({"code": code, "script": "train.py", "retry": retry})
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    attempts = testbed.attempts(run_id)
    assert [attempt.ended.kind for attempt in attempts if attempt.ended] == [
        OutcomeKind.FAILED,
        OutcomeKind.COMPLETED,
    ]
    assert attempts[0].ended.reason == "exit code 1: the network is down"
    assert attempts[1].resume_step == 1
    testbed.wait_for_no_instance(run_id)


def test_a_failure_that_repeats_without_progress_ends_the_run(testbed: Testbed):
    code = testbed.upload_project({"train.py": "import sys; sys.exit('no such data set')"})
    retry = {"exit_codes": "any", "max_failures": 9}
    run_id = testbed.start({"code": code, "script": "train.py", "retry": retry})
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED", testbed.story(run_id)
    assert len(testbed.attempts(run_id)) == 2
    assert testbed.run(run_id).reason == (
        "the same failure twice without progress in between: exit code 1: no such data set"
    )
