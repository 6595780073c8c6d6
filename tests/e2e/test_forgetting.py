"""S16: what a whole run leaves in a deployment, and that `runctl forget` removes it."""

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.testbed import PROJECT, Testbed

pytestmark = pytest.mark.e2e

TRAIN = """
import os, pathlib, time
out = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
saved = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "state"
step = int(saved.read_text()) if saved.exists() else 0
while step < 100:
    step += 1
    saved.write_text(str(step))
    print("step", step, flush=True)
    time.sleep(0.1)
(out / "result.txt").write_text("secret result")
"""


def left_of(testbed: Testbed, *names: str) -> set[str]:
    """Return every key, record and log stream of the deployment in which one of the names is."""
    s3, deployment = testbed.clients.get("s3"), testbed.deployment
    found = [
        entry["Key"]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=deployment.bucket)
        for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
    ]
    scan = testbed.clients.get("dynamodb").get_paginator("scan")
    items = [item for page in scan.paginate(TableName=deployment.table) for item in page["Items"]]
    streams = testbed.clients.get("logs").get_paginator("describe_log_streams")
    found += [
        stream["logStreamName"]
        for page in streams.paginate(logGroupName=deployment.log_group)
        for stream in page["logStreams"]
    ]
    found += [json.dumps(item, sort_keys=True, default=str) for item in items]
    return {each for each in found if any(name in each for name in names)}


def test_nothing_of_a_run_is_left_once_it_is_forgotten(testbed: Testbed, new_name) -> None:
    run_id = new_name()
    # Its content is that of no other run, so that its archive belongs to it alone.
    archive = testbed.upload_project({"train.py": f"# {run_id}{TRAIN}"})
    request = {"script": "train.py", "code": archive, "instance_types": ["m5.large"]}
    testbed.start(request, name=run_id)
    testbed.wait_for_training(run_id, attempt=1, save=1)
    testbed.simulate_spot_interruption(run_id, attempt=1)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    testbed.wait_for_no_instance(run_id)
    code = archive.partition("/code/")[2]
    before = left_of(testbed, run_id, code)
    for part in (
        f"runs/{run_id}/outputs/",
        f"runs/{run_id}/checkpoints/",
        f"{run_id}/0001",
        code,
        f"TOKEN#{run_id}",
    ):
        assert any(part in each for each in before), part
    done = subprocess.run(
        [sys.executable, "-m", "runctl.cli.main", "--local", "--json", "forget", run_id, "--yes"],
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept_code"] == []
    assert left_of(testbed, run_id, code) == set()
