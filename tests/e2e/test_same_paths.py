"""A program that stores absolute paths finds them valid on the next instance, as on EC2."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.testbed import Testbed, wait_for

# It keeps a file open as long as it lives, which must be visible through the mounts.
PROGRAM = """
import json, os, pathlib, time

folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
state, scratch = folder / "step-1.json", pathlib.Path("/tmp/scratch")
gate = pathlib.Path(os.environ["GATE"])
seen = {"folder": str(folder), "home": os.path.expanduser("~"), "cwd": os.getcwd()}
assert not scratch.exists(), "another instance's /tmp"
scratch.mkdir()
assert not (folder / "open.log").exists(), "an open file was taken for a whole one"
if state.exists():
    saved = json.loads(state.read_text())
    assert saved["seen"] == seen, (saved, seen)
    assert pathlib.Path(saved["absolute"]).read_text() == state.read_text()
    print("the same as before", flush=True)
else:
    fresh = state.with_suffix(".tmp")
    fresh.write_text(json.dumps({"seen": seen, "absolute": str(state.resolve())}))
    fresh.rename(state)
    log = (folder / "open.log").open("w")
    while not gate.exists():
        log.write("line")
        log.flush()
        time.sleep(0.05)
"""


def test_both_attempts_see_the_same_paths_and_their_own_tmp(
    testbed: Testbed, new_name, tmp_path: Path
) -> None:
    run_id = new_name()
    code = testbed.upload_project({"train.py": PROGRAM})
    env = {"GATE": str(tmp_path / "gate")}
    testbed.start({"code": code, "script": "train.py", "env": env}, name=run_id)
    first = testbed.wait_for_launch(run_id, attempt=1)
    root = Path(testbed.cloud.instance(first)["root"])
    saved = root / "var/lib/runctl/checkpoint/step-1.json"
    wait_for(saved.exists, "the first save")
    wait_for(lambda: testbed.run(run_id).newest, "its commit")
    testbed.interrupt(run_id, attempt=1, notice_seconds=5)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    assert "the same as before" in testbed.log(run_id, 2), testbed.story(run_id)
    assert '"folder": "/var/lib/runctl/checkpoint"' in saved.read_text()
    # From outside, each instance's /tmp lies below its root, and nowhere else.
    assert (root / "tmp/scratch").is_dir()
    assert not Path("/tmp/scratch").exists()
