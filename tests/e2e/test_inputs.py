"""Inputs are on every machine of a run before its trainer starts, and checked before the first."""

from pathlib import Path

import pytest

from tests.e2e.books import check_machines
from tests.e2e.testbed import Testbed

pytestmark = pytest.mark.e2e

READS_ITS_INPUTS = """
import os, pathlib, time
from runctl import training

folder = pathlib.Path(os.environ["RUNCTL_INPUT_DIR"])
assert folder == training.input_dir
files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.bin")}
assert sorted(files) == ["data/a.bin", "data/x/b.bin", "model/weights.bin"], sorted(files)
assert len(files["model/weights.bin"]) == 6 << 20
found = training.restore()
step = 1 if found is None else found.step + 1
training.save(lambda path: path.write_bytes(b"saved"), step)
print(f"step {step} has {files['data/a.bin'].decode()} in {folder}", flush=True)
while step == 1 and not training.should_stop():
    time.sleep(0.02)
"""


def upload(testbed: Testbed, key: str, body: bytes) -> str:
    testbed.clients.get("s3").put_object(Bucket=testbed.deployment.bucket, Key=key, Body=body)
    return f"s3://{testbed.deployment.bucket}/{key}"


def test_every_attempt_has_the_inputs_at_the_same_path(testbed: Testbed, new_name):
    run_id = new_name()
    prefix = f"inputs/{run_id}/"
    upload(testbed, f"{prefix}a.bin", b"the first version")
    upload(testbed, f"{prefix}x/b.bin", b"b")
    model = upload(testbed, f"inputs/{run_id}-models/weights.bin", b"w" * (6 << 20))
    code = testbed.upload_project({"train.py": READS_ITS_INPUTS})
    inputs = {"data": f"s3://{testbed.deployment.bucket}/{prefix}", "model": model}
    testbed.start({"code": code, "script": "train.py", "inputs": inputs}, name=run_id)
    first = testbed.wait_for_training(run_id, attempt=1, step=1)
    assert first.staging is not None
    assert first.staging.done_bytes == first.staging.total_bytes == testbed.run(run_id).input_bytes
    assert "inputs_ready" in first.timeline
    upload(testbed, f"{prefix}a.bin", b"the second version")
    testbed.simulate_spot_interruption(run_id, attempt=1)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    where = "/var/lib/runctl/input"
    assert f"step 1 has the first version in {where}" in testbed.log(run_id, 1)
    assert f"step 2 has the second version in {where}" in testbed.log(run_id, 2)
    check_machines(testbed, run_id)


def test_inputs_that_cannot_be_staged_end_the_run_before_a_machine_is_paid_for(
    testbed: Testbed, new_name, tmp_path: Path
):
    run_id, bucket = new_name(), testbed.deployment.bucket
    upload(testbed, f"inputs/{run_id}/marker/", b"")
    upload(testbed, f"inputs/{run_id}/unsafe/a/../b", b"")
    upload(testbed, f"elsewhere/{run_id}/a", b"a")
    inputs = {
        "typo": f"s3://{bucket}/inputs/{run_id}/other-name/",
        "empty": f"s3://{bucket}/inputs/{run_id}/marker/",
        "missing": f"s3://{bucket}/inputs/{run_id}/none.bin",
        "unsafe": f"s3://{bucket}/inputs/{run_id}/unsafe/",
        "elsewhere": f"s3://{bucket}/elsewhere/{run_id}/",
        "nowhere": "s3://there-is-no-such-bucket/a/",
    }
    testbed.start({"command": ["true"], "inputs": inputs}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    for expected in (
        "inputs.typo: there are no objects below",
        "inputs.empty: there are no objects below",
        "inputs.missing: ",
        "does not exist; upload it first, or end the URI with /",
        "inputs.unsafe: ",
        "cannot be staged",
        f"inputs.elsewhere: instances do not read s3://{bucket}/elsewhere/",
        "inputs.nowhere: there is no bucket there-is-no-such-bucket; check the name",
    ):
        assert expected in ended.cause
    assert testbed.ledger.find_run(run_id) is None
