"""Environments in the bucket: built once, pinned to the run, and replaced by nobody."""

from datetime import timedelta

import pytest

from runctl.control.prune_environments import prune_environments
from runctl.model.outcome import RunStatus
from runctl.report.environment_list import read_environments
from tests.agent.packages import make_wheel
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

# It reports the version of its package, saves once, and trains until its gate is opened.
PROGRAM = """
import mypkg, os, pathlib, time
from runctl import training

print("version", mypkg.VERSION, flush=True)
if training.restore() is None:
    training.save(lambda path: path.write_bytes(b"x"), 1)
while not pathlib.Path(os.environ["GATE"]).exists() and not training.should_stop():
    time.sleep(0.05)
"""


@pytest.fixture
def index(tmp_path):
    """A package index that instances can read, with one package."""
    make_wheel(tmp_path / "index", "mypkg", "1.0")
    return tmp_path / "index"


def requirements(index) -> str:
    return f"--no-index\n--find-links {index}\nmypkg\n"


def start(testbed: Testbed, index, run_id: str, gate) -> None:
    files = {"train.py": PROGRAM, "requirements.txt": requirements(index)}
    request = {"script": "train.py", "env": {"GATE": str(gate)}}
    testbed.start({**request, "code": testbed.upload_project(files)}, name=run_id)


def version_of(testbed: Testbed, run_id: str, attempt: int) -> str:
    def told() -> str:
        lines = testbed.log(run_id, attempt)
        return next((line for line in lines if line.startswith("version ")), "")

    return wait_for(told, f"attempt {attempt} of {run_id} to tell its version")


def stored_keys(testbed: Testbed, prefix: str = "") -> list[str]:
    return [each.key for each in testbed.environment_catalog.objects(prefix)]


def test_all_attempts_have_the_versions_of_the_first_though_the_index_and_the_store_changed(
    testbed: Testbed, new_name, index, tmp_path
):
    run_id, gate = new_name(), tmp_path / "gate"
    start(testbed, index, run_id, gate)
    assert version_of(testbed, run_id, 1) == "version 1.0"
    wait_for(lambda: stored_keys(testbed, f"runs/{run_id}/"), "the environment to be stored")
    (entry,) = (
        entry
        for entry in read_environments(testbed.environment_catalog).entries
        if run_id in entry.runs
    )
    assert entry.stored.packages == (("mypkg", "1.0"),)
    make_wheel(index, "mypkg", "2.0")
    testbed.interrupt(run_id, attempt=1)
    assert version_of(testbed, run_id, 2) == "version 1.0"
    # Pruning spares what an unfinished run uses, so the store loses it in another way.
    pruned = prune_environments(testbed, keep=timedelta(0))
    assert entry.fingerprint not in pruned.removed
    testbed.environment_catalog.remove(stored_keys(testbed))
    testbed.interrupt(run_id, attempt=2)
    assert version_of(testbed, run_id, 3) == "version 1.0"
    gate.touch()
    testbed.wait_for_training_completion(run_id)
    assert testbed.run(run_id).ended is RunStatus.COMPLETED
    assert testbed.attempts(run_id)[2].environment_bytes > 0
    # A continuation may drop the versions.
    gate.unlink()
    testbed.workflow.start_run(f"{run_id}-r2", {"run_id": run_id, "fresh_environment": True})
    assert version_of(testbed, run_id, 4) == "version 2.0"
    gate.touch()
    testbed.wait_for_training_completion(run_id, execution=f"{run_id}-r2")
    wait_for(lambda: testbed.run(run_id).is_settled, "the end to be announced")
    prune_environments(testbed, keep=timedelta(0))
    assert not [key for key in stored_keys(testbed) if run_id in key]


def test_an_environment_that_was_built_in_advance_is_fetched_by_the_run_that_needs_it(
    testbed: Testbed, new_name, index, tmp_path
):
    builder, run_id, gate = new_name(), new_name(), tmp_path / "gate"
    files = {"train.py": PROGRAM, "requirements.txt": requirements(index) + "# in advance\n"}
    code = testbed.upload_project(files)
    testbed.start({"kind": "environment", "script": "train.py", "code": code}, name=builder)
    testbed.wait_for_training_completion(builder)
    built = testbed.run(builder)
    assert (built.ended, built.reason) == (RunStatus.COMPLETED, "the environment is stored")
    assert not any(line.startswith("version") for line in testbed.log(builder, 1))
    (entry,) = (
        entry
        for entry in read_environments(testbed.environment_catalog).entries
        if builder in entry.runs
    )
    assert entry.stored.packages == (("mypkg", "1.0"),)
    make_wheel(index, "mypkg", "2.0")  # a run that built its own would take this one
    request = {"script": "train.py", "env": {"GATE": str(gate)}, "code": code}
    testbed.start(request, name=run_id)
    assert version_of(testbed, run_id, 1) == "version 1.0"
    gate.touch()
    testbed.wait_for_training_completion(run_id)


def test_a_package_that_cannot_be_installed_fails_what_was_to_be_built(
    testbed: Testbed, new_name, index
):
    builder = new_name()
    files = {"train.py": "", "requirements.txt": f"--no-index\n--find-links {index}\nnothing\n"}
    code = testbed.upload_project(files)
    testbed.start({"kind": "environment", "script": "train.py", "code": code}, name=builder)
    testbed.wait_for_training_completion(builder)
    built = testbed.run(builder)
    assert built.ended is RunStatus.FAILED
    assert "nothing" in built.reason
