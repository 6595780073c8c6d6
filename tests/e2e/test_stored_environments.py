"""Environments in the bucket: built once, pinned to the run, and replaced by nobody."""

import hashlib
import json

import pytest

from runctl.aws.environments import EnvironmentStore
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.identity import ENVIRONMENTS
from runctl.model.outcome import RunStatus
from runctl.model.stored_environment import StoredEnvironment
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


def make_older(testbed: Testbed, *, days: int) -> None:
    bucket = testbed.deployment.bucket
    assert testbed.cloud.make_objects_older(bucket, ENVIRONMENTS, days=days) > 0


def store_unused(testbed: Testbed, fingerprint: str) -> list[str]:
    """Store an environment of one file that no run uses; return its keys."""
    before = stored_keys(testbed)
    store = EnvironmentStore(testbed.clients.get("s3"), bucket=testbed.deployment.bucket)
    content = fingerprint.encode()
    part = Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    store.put_part(part, [content])
    entry = Entry(
        path="a.py", kind="file", mode=0o644, mtime_ns=0, size_bytes=len(content), parts=(part,)
    )
    manifest = Manifest(run_id="", step=None, attempt=1, taken_at="now", entries=(entry,))
    digest = store.put_manifest(fingerprint, manifest)
    store.make_current(fingerprint, StoredEnvironment(manifest=digest))
    return [key for key in stored_keys(testbed) if key not in before]


def prune(testbed: Testbed) -> set[str]:
    """Let the deployed function prune, with its role, and return the environments it removed."""
    event = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}
    answer = testbed.clients.get("lambda").invoke(
        FunctionName="runctl-prune_environments", Payload=json.dumps(event)
    )
    document = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, document
    return set(document["removed"])


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
    old = store_unused(testbed, "0" * 64)
    make_older(testbed, days=31)
    recent = store_unused(testbed, "1" * 64)
    removed = prune(testbed)
    assert "0" * 64 in removed
    assert not {"1" * 64, entry.fingerprint} & removed
    left = set(stored_keys(testbed))
    assert len(old) == len(recent) == 3
    assert not left & set(old)
    assert left >= set(recent)
    # Pruning spares what an unfinished run uses, so the store loses it in another way.
    assert any(run_id in key for key in left)
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
    wait_for(lambda: stored_keys(testbed, f"runs/{run_id}/"), "version 2.0 to be stored")
    gate.touch()
    testbed.wait_for_training_completion(run_id, execution=f"{run_id}-r2")
    wait_for(lambda: testbed.run(run_id).is_settled, "the end to be announced")
    make_older(testbed, days=31)
    prune(testbed)
    assert stored_keys(testbed) == []


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
