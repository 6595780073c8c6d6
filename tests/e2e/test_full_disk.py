"""The disk of a whole instance fills up, during preparation or during training."""

import hashlib
import io
import json
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.run import Attempt
from tests.e2e.books import check_machines
from tests.e2e.testbed import Testbed, wait_for

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
# What an instance needs before it does anything for its run: the agent with its libraries and their
# bytecode. Their number counts more than their size, as a disk has an inode for each 16 KiB.
AGENT = 22 * MIB

# It saves step 1, fills the disk to the last byte and inode, continues as well as it can, frees
# space and saves step 2.
FILLS_ITS_DISK = """
import contextlib, os, pathlib, time
from runctl import training

signs = pathlib.Path(os.environ["SIGNS"])

def wait_for(name):
    while not (signs / name).exists():
        time.sleep(0.02)

def save(step):
    training.save(lambda path: path.write_bytes(b"%d" % step * 100_000), step)

def fill(folder):
    folder.mkdir()
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(65536)):
            pass
    with contextlib.suppress(OSError):
        for number in range(1_000_000):
            (folder / str(number)).touch()

beside = training.checkpoint_dir / "beside.bin"
beside.write_bytes(b"x" * 1000)
save(1)
training.report(1)
wait_for("fill")
fill(pathlib.Path("full"))
refused = ""
try:
    save(2)
except training.SaveError as exc:
    refused = str(exc)
for _ in range(3):
    training.report(1, words="x" * 5000)
with beside.open("r+b") as stream:
    stream.write(b"y" * 1000)
(signs / "refused").write_text(refused)
wait_for("go")
for path in pathlib.Path("full").iterdir():
    path.unlink()
while not training.checkpoint_requested():
    time.sleep(0.02)
save(2)
(training.output_dir / "weights.bin").write_bytes(b"2" * 100_000)
"""

DIES_OF_IT = """
import os, pathlib
with pathlib.Path("filler").open("wb", buffering=0) as filler:
    while True:
        filler.write(bytes(65536))
"""

LARGE = """
import hashlib, os, pathlib, time
from runctl import training

weights, step = bytes(8 << 20), 0
if found := training.restore():
    weights, step = found.path.read_bytes(), found.step
while step < 2 and not training.should_stop():
    weights = hashlib.sha512(weights).digest() * (8 << 14)
    step += 1
    training.save(lambda path: path.write_bytes(weights), step, keep=1)
    while not pathlib.Path(os.environ["GATE"]).exists() and not training.should_stop():
        time.sleep(0.02)
if step == 2:
    (training.output_dir / "digest").write_text(hashlib.sha512(weights).hexdigest())
"""


def told(testbed: Testbed, run_id: str, words: str) -> Attempt | None:
    attempt = testbed.attempts(run_id)[0]
    return attempt if words in attempt.warning else None


def test_a_disk_that_fills_during_training_costs_no_checkpoint_and_is_reported_once(
    testbed: Testbed, new_name, tmp_path: Path
):
    run_id = new_name()
    testbed.cloud.set_knobs(boot_delay=0.05, disk_bytes=AGENT + 16 * MIB)
    code = testbed.upload_project({"train.py": FILLS_ITS_DISK})
    testbed.start(
        {"code": code, "script": "train.py", "env": {"SIGNS": str(tmp_path)}}, name=run_id
    )
    testbed.wait_for_training(run_id, attempt=1, step=1)
    newest = testbed.run(run_id).newest

    (tmp_path / "fill").touch()
    wait_for((tmp_path / "refused").exists, "the trainer's save to fail")
    assert "No space left on device" in (tmp_path / "refused").read_text()
    wait_for(lambda: told(testbed, run_id, "No space left on device"), "the status to tell")

    def lines() -> list[str]:
        return [line for line in testbed.agent_log(run_id, 1) if "cannot be pinned" in line]

    wait_for(lines, "the log to tell")
    # The agent lives, and still receives requests.
    asked = datetime.now(timezone.utc)
    testbed.cloud.rebalance(testbed.wait_for_launch(run_id, attempt=1))
    alive = wait_for(lambda: told(testbed, run_id, "cannot be asked to save"), "another warning")
    assert alive.heartbeat_at is not None
    assert alive.heartbeat_at > asked
    assert testbed.run(run_id).newest == newest
    testbed.verify_checkpoint_exists(run_id)
    assert len(lines()) == 1

    (tmp_path / "go").touch()
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    (attempt,) = testbed.attempts(run_id)
    assert testbed.run(run_id).step == 2
    assert attempt.warning == ""
    assert testbed.output(run_id, "weights.bin") == b"2" * 100_000
    assert len(lines()) == 1, testbed.story(run_id)
    check_machines(testbed, run_id)


def volume_gib(testbed: Testbed, instance_id: str) -> int:
    named = [{"Name": "attachment.instance-id", "Values": [instance_id]}]
    (volume,) = testbed.clients.get("ec2").describe_volumes(Filters=named)["Volumes"]
    return int(volume["Size"])


def test_a_disk_that_stays_full_is_doubled_three_times_and_then_reported_with_the_cause(
    testbed: Testbed, new_name
):
    run_id = new_name()
    code = testbed.upload_project({"train.py": DIES_OF_IT})
    testbed.cloud.set_knobs(boot_delay=0.05, disk_bytes=AGENT + 4 * MIB)
    testbed.start({"code": code, "script": "train.py"}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert "the disk was full in 4 attempts, in the last one with 8 times its size" in ended.cause
    # Its last output would have gone to the same disk.
    size_mib = 8 * (AGENT // MIB + 4)
    assert f"exit code 1 (the instance's disk is full, 0 of {size_mib} MiB are free)" in ended.cause
    attempts = testbed.attempts(run_id)
    plans = [attempt.plan for attempt in attempts]
    assert "GiB" not in plans[0]
    for number, size in enumerate((100, 200, 400), start=1):
        because = f"a disk of {size} GiB, since the disk of attempt {number} was full"
        assert because in plans[number]
    check_machines(testbed, run_id)


def test_a_checkpoint_too_large_for_the_disk_is_restored_to_one_of_twice_the_size(
    testbed: Testbed, new_name, tmp_path: Path
):
    run_id = new_name()
    testbed.cloud.set_knobs(boot_delay=0.05)
    code = testbed.upload_project({"train.py": LARGE})
    env = {"GATE": str(tmp_path / "gate")}
    testbed.start({"code": code, "script": "train.py", "env": env}, name=run_id)
    testbed.wait_for_training(run_id, attempt=1, step=1)
    assert testbed.run(run_id).newest_bytes == 8 << 20
    testbed.cloud.set_knobs(disk_bytes=AGENT + 4 * MIB)
    testbed.simulate_spot_interruption(run_id, attempt=1, notice=False)
    (tmp_path / "gate").touch()
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", f"{ended.cause}\n{testbed.story(run_id)}"
    _, small, *others = testbed.attempts(run_id)
    assert small.ended is not None
    assert small.ended.kind is OutcomeKind.FAILED
    assert small.ended.is_disk_full
    assert "the files of the checkpoint" in small.ended.reason
    assert "the instance's disk is full" in small.ended.reason
    assert any("the instance's disk is full" in line for line in testbed.agent_log(run_id, 2))
    (config,) = json.loads(others[0].fleet_request)["LaunchTemplateConfigs"]
    disks = [override["BlockDeviceMappings"][0]["Ebs"] for override in config["Overrides"]]
    assert {disk["VolumeSize"] for disk in disks} == {100}
    assert others[-1].resume_step == 1
    weights = bytes(8 << 20)
    for _ in range(2):
        weights = hashlib.sha512(weights).digest() * (8 << 14)
    assert testbed.output(run_id, "digest").decode() == hashlib.sha512(weights).hexdigest()
    check_machines(testbed, run_id)


def test_a_disk_of_the_requested_size_is_attached_and_one_too_small_is_refused(
    testbed: Testbed, new_name
):
    small, large = new_name(), new_name()
    testbed.start({"command": ["true"], "disk": {"gib": 20, "iops": 20_000}}, name=small)
    ended = testbed.wait_for_training_completion(small)
    assert "disk: 20000 iops need a disk of at least 40 GiB, and gib is 20" in ended.cause
    testbed.start({"command": ["true"], "disk": {"gib": 20}}, name=f"{small}-2")
    ended = testbed.wait_for_training_completion(f"{small}-2")
    assert "disk: gib: 20 is less than the 50 GiB that the image" in ended.cause
    assert testbed.ledger.find_run(f"{small}-2") is None

    gate = {"command": ["sleep", "1000"], "disk": {"gib": 120, "throughput": 500}}
    testbed.start(gate, name=large)
    instance_id = testbed.wait_for_launch(large, attempt=1)
    assert volume_gib(testbed, instance_id) == 120
    assert "a disk of 120 GiB" in testbed.attempts(large)[0].plan
    testbed.workflow.stop_run(testbed.run(large).execution_arn, cause="seen")
    testbed.wait_for_no_instance(large)


def large_wheel(size_bytes: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("large/weights.bin", bytes(size_bytes))
        about = "large-1.0.dist-info/"
        wheel.writestr(f"{about}METADATA", "Metadata-Version: 2.1\nName: large\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{about}WHEEL", tags)
        wheel.writestr(f"{about}RECORD", "")
    return packed.getvalue()


def test_dependencies_too_large_for_the_disk_are_installed_on_a_larger_one(
    testbed: Testbed, new_name, tmp_path: Path
):
    run_id = new_name()
    (tmp_path / "large-1.0-py3-none-any.whl").write_bytes(large_wheel(16 * MIB))
    wanted = f"--no-index\n--find-links {tmp_path}\nlarge\n"
    code = testbed.upload_project({"train.py": "print('has room')", "requirements.txt": wanted})
    testbed.cloud.set_knobs(boot_delay=0.05, disk_bytes=AGENT + 8 * MIB)
    testbed.start({"code": code, "script": "train.py"}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "SUCCEEDED", testbed.story(run_id)
    attempts = testbed.attempts(run_id)
    small = attempts[0].ended
    assert small is not None
    assert (small.kind, small.is_disk_full) == (OutcomeKind.FAILED, True)
    assert "requirements.txt" in small.reason
    assert "No space left on device" in small.reason
    assert "has room" in testbed.log(run_id, attempts[-1].number)
    check_machines(testbed, run_id)


def test_an_agent_too_large_for_the_disk_is_given_up_after_three_machines(
    testbed: Testbed, new_name
):
    run_id = new_name()
    code = testbed.upload_project({"train.py": "print('never')"})
    testbed.cloud.set_knobs(boot_delay=0.05, disk_bytes=8 * MIB)
    testbed.start({"code": code, "script": "train.py"}, name=run_id)
    ended = testbed.wait_for_training_completion(run_id)
    assert ended.status == "FAILED"
    assert testbed.run(run_id).ended is RunStatus.FAILED
    attempts = testbed.attempts(run_id)
    assert [attempt.ended.kind for attempt in attempts if attempt.ended] == [OutcomeKind.LOST] * 3
    assert all("shutdown" in attempt.ended.reason.lower() for attempt in attempts if attempt.ended)
    console = testbed.clients.get("ec2").get_console_output(InstanceId=attempts[0].instance_ids[0])
    assert "No space left on device" in console["Output"]
    check_machines(testbed, run_id)
