"""kill -9 of the agent at every phase of a save, a restore and a drain."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from runctl.agent.faults import DRAIN, RESTORE, SAVE
from runctl.agent.pins import pin
from runctl.agent.restore import Restorer
from runctl.agent.snapshot import Take, look
from runctl.agent.upload import Uploader
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Manifest
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import CheckpointOptions
from tests.agent.machine import Cloud, Machine, now, wait_until

pytestmark = pytest.mark.slow

STEPS = 6
# Every step's bytes follow from the step alone, so a run that was torn apart ends in the same ones.
# The lock tells two trainers at once on one machine.
TRAINER = f"""
    import fcntl, json, os, pathlib, signal, sys, time
    lock = open(os.path.join(os.environ["RUNCTL_OUTPUT_DIR"], "lock"), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("another trainer runs", flush=True)
        sys.exit(99)
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))

    def save(step):
        (folder / "shared.bin").exists() or (folder / "shared.bin").write_bytes(b"shared" * 1000)
        fresh = folder / f"step-{{step}}.bin"
        fresh.write_bytes(f"weights of step {{step}}".encode() * 100)
        for old in folder.glob("step-*.bin"):
            old == fresh or old.unlink()
        with open(os.environ["RUNCTL_SAVED_FILE"], "a") as told:
            told.write(json.dumps({{"step": step}}) + "\\n")

    step = int(os.environ.get("RUNCTL_RESUME_STEP") or 0)
    print("from", step, sorted(path.name for path in folder.iterdir()), flush=True)
    while step < {STEPS}:
        time.sleep(0.2)
        while str(step) == os.environ.get("HOLD_AT") and os.environ["RUNCTL_ATTEMPT"] == "1":
            time.sleep(0.02)
            if stop:
                break
        step += 1
        save(step)
        if stop:
            print("saved", step, flush=True)
            sys.exit(0)
    print("done", flush=True)
"""


def store_of(cloud: Cloud) -> CheckpointStore:
    return CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)


def newest(cloud: Cloud, tmp_path: Path) -> tuple[int, dict[str, bytes]]:
    """Fetch what the ledger calls the newest; fails when that very one is not whole."""
    run = cloud.run()
    if run.newest is None:
        return 0, {}
    restorer = Restorer(store_of(cloud), tmp_path / "incoming")
    fetched = restorer.fetch(run.newest)
    assert fetched.key == run.newest, "the newest checkpoint is not whole"
    assert fetched.manifest.step == run.step
    folder = tmp_path / "fetched"
    restorer.put_in_place(fetched.manifest, folder)
    return fetched.manifest.step, {path.name: path.read_bytes() for path in folder.iterdir()}


def content_of(step: int) -> dict[str, bytes]:
    return {
        "shared.bin": b"shared" * 1000,
        f"step-{step}.bin": f"weights of step {step}".encode() * 100,
    }


def check_whole(cloud: Cloud, tmp_path: Path) -> int:
    """The newest checkpoint is exactly what the trainer saved at its step."""
    step, content = newest(cloud, tmp_path)
    assert content == (content_of(step) if step else {})
    return step


def check_parts(cloud: Cloud) -> None:
    """No part went out twice, and each that is left is one that a manifest needs."""
    versions = cloud.clients["s3"].list_object_versions(
        Bucket=cloud.name, Prefix=f"runs/{cloud.run_id}/checkpoints/parts/"
    )
    puts = Counter(one["Key"] for one in versions.get("Versions", ()))
    assert set(puts.values()) == {1}, "a part was uploaded twice"
    store = store_of(cloud)
    needed = {
        part.sha256
        for key in store.manifest_keys()
        for entry in store.get_manifest(key).entries
        for part in entry.parts
    }
    assert needed <= {part.sha256 for part in store.parts()}


def words(machine: Machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def begin(cloud: Cloud, **env: str) -> None:
    """A run that keeps one checkpoint, in a bucket that counts what is put."""
    cloud.clients["s3"].put_bucket_versioning(
        Bucket=cloud.name, VersioningConfiguration={"Status": "Enabled"}
    )
    cloud.create_run(TRAINER, checkpoint=CheckpointOptions(keep_last=1), env=env)
    cloud.open_attempt()


def await_kill(machine: Machine) -> None:
    assert machine.process is not None
    code = machine.process.wait(40)
    assert code == -signal.SIGKILL, f"{machine.fault} was not reached: {machine.agent_log()}"


def last_committed(machine: Machine) -> int:
    """Return the last step that the agent logged as committed, which it does afterwards."""
    found = re.findall(r"committed step (\d+)", machine.agent_log())
    return int(found[-1])


def start_again(machine: Machine) -> None:
    """What systemd does."""
    machine.fault = ""
    machine.start()


def finish(cloud: Cloud, tmp_path: Path) -> None:
    reports = cloud.tokens.wait_for(
        lambda: [one for one in cloud.tokens.reports if one["outcome"]["kind"] == "completed"], 40
    )
    assert reports[0]["outcome"]["step"] == STEPS
    assert check_whole(cloud, tmp_path) == STEPS
    check_parts(cloud)


@pytest.mark.parametrize("point", SAVE)
def test_agent_killed_in_a_save_goes_on_from_the_last_whole_one(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud)
    cloud.give_token()
    # The third part is the second save's: the shared file, one step, another.
    count = 3 if point == "save.first_part_stored" else 1 if "old" in point else 2
    machine = launch(fault=f"{point}:{count}")
    await_kill(machine)
    step = check_whole(cloud, tmp_path)
    logged = last_committed(machine)
    assert step > logged if point == "save.committed" else step == logged > 0
    start_again(machine)
    finish(cloud, tmp_path)
    assert f"from {step} " in words(machine)
    assert "another trainer" not in words(machine)


@pytest.mark.parametrize("point", ["save.first_part_stored", "save.parts_stored", "save.committed"])
def test_another_machine_goes_on_where_a_killed_one_saved(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud)
    cloud.give_token()
    machine = launch(fault=f"{point}:2" if point != "save.first_part_stored" else f"{point}:3")
    await_kill(machine)
    machine.end()
    step = check_whole(cloud, tmp_path)
    lose(cloud, 1)
    second = launch(attempt=2)
    finish(cloud, tmp_path)
    assert words(second).startswith(f"from {step} ['shared.bin', 'step-{step}.bin']")


def lose(cloud: Cloud, number: int) -> None:
    """What the state machine does when an attempt went silent."""
    cloud.ledger.end_attempt(
        cloud.run_id, number, outcome=Outcome(kind=OutcomeKind.LOST, reason="gone"), now=now()
    )
    cloud.open_attempt(number + 1)
    cloud.give_token(number + 1)


@pytest.mark.parametrize("point", RESTORE)
def test_agent_killed_in_a_restore_restores_again(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud)
    cloud.give_token()
    seed(cloud, tmp_path, step=3)
    lose(cloud, 1)
    machine = launch(attempt=2, fault=point)
    await_kill(machine)
    assert words(machine) == ""
    assert check_whole(cloud, tmp_path) == 3
    start_again(machine)
    finish(cloud, tmp_path)
    assert words(machine).startswith("from 3 ['shared.bin', 'step-3.bin']")


def seed(cloud: Cloud, tmp_path: Path, *, step: int) -> None:
    """Commit a checkpoint as attempt 1 would."""
    folder = tmp_path / "seed"
    folder.mkdir()
    for name, content in content_of(step).items():
        (folder / name).write_bytes(content)
    view = pin(folder, look(folder), tmp_path / "seed-pins")
    uploader = Uploader(store_of(cloud))
    uploaded = uploader.upload(
        Take(view, tuple(view)), tmp_path / "seed-pins", superseded=threading.Event()
    )
    uploader.close()
    manifest = Manifest(
        run_id=cloud.run_id,
        step=step,
        attempt=1,
        taken_at=now().isoformat(),
        entries=uploaded.entries,
    )
    key = store_of(cloud).put_manifest(manifest)
    cloud.ledger.commit_checkpoint(cloud.run_id, 1, step=step, manifest=key, now=now())


@pytest.mark.parametrize("point", DRAIN)
def test_agent_killed_in_a_drain_loses_no_whole_checkpoint(
    cloud: Cloud, launch, tmp_path: Path, point: str
) -> None:
    begin(cloud, HOLD_AT="2")
    cloud.give_token()
    machine = launch(fault=point)
    wait_until(lambda: cloud.run().step == 2)
    machine.metadata.give_notice(seconds=60)
    await_kill(machine)
    step = check_whole(cloud, tmp_path)
    assert step in {2, 3}
    if point in {"drain.saved", "drain.reported"}:
        assert step == 3
    if point == "drain.reported":  # then ConfirmCheckpoint has it
        cloud.ledger.end_attempt(
            cloud.run_id, 1, outcome=Outcome(kind=OutcomeKind.INTERRUPTED, step=step), now=now()
        )
    start_again(machine)
    reports = cloud.tokens.wait_for(lambda: cloud.tokens.reports, 40)
    assert [one["outcome"]["kind"] for one in reports] == ["interrupted"]
    assert machine.wait() == 0
    assert not machine.shut_down  # EC2 takes it, and charges nothing if we wait
    step = check_whole(cloud, tmp_path)
    lose(cloud, 1)
    second = launch(attempt=2)
    finish(cloud, tmp_path)
    assert words(second).startswith(f"from {step} ")
    assert "another trainer" not in words(machine)
