"""A run whose bytes follow from its step, so that an interrupted run ends with the same bytes."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.pinning import pin
from runctl.checkpoint.restore import Restorer
from runctl.checkpoint.settling import Snapshot, scan_folder
from runctl.checkpoint.upload import Uploader
from runctl.model.checkpoint import Manifest
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import Cloud, Machine, now, wait_until

STEPS = 6
# Every step's bytes follow from the step alone, so an interrupted run ends with the same bytes.
# The lock detects two trainers at once on one machine.
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
        with open(os.environ["RUNCTL_SAVED_FILE"], "a") as saves:
            saves.write(json.dumps({{"step": step}}) + "\\n")

    step = int(os.environ.get("RUNCTL_RESUME_STEP") or 0)
    print("from", step, sorted(path.name for path in folder.iterdir()), flush=True)
    output = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
    # With WAIT the first attempt's second step waits, so that a save of the first is committed and
    # a later save has a new part, however slow the agent is. The last step waits, so that it is
    # not done before its agent was killed; a folder that rests meanwhile is one that can be saved.
    waits = "WAIT" in os.environ and os.environ["RUNCTL_ATTEMPT"] == "1"
    while step < {STEPS}:
        time.sleep(0.4 if waits else 0.2)
        while step == 1 and waits and not ((output / "second").exists() or stop):
            time.sleep(0.02)
        while step == {STEPS} - 1 and waits and not ((output / "last").exists() or stop):
            time.sleep(0.02)
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
    """Fetch the checkpoint that the ledger calls the newest; fail if it is not whole."""
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
    """Assert that the newest checkpoint is exactly what the trainer saved at its step."""
    step, content = newest(cloud, tmp_path)
    assert content == (content_of(step) if step else {}), (
        step,
        {k: v[:30] for k, v in content.items()},
    )
    return step


def check_parts(cloud: Cloud) -> None:
    """Assert that no stored part was uploaded again, and that each needed part exists.

    A part that retention removed may be uploaded again: a save repeated after a kill needs it.
    """
    versions = cloud.clients["s3"].list_object_versions(
        Bucket=cloud.name, Prefix=f"runs/{cloud.run_id}/checkpoints/parts/"
    )
    puts = Counter(version["Key"] for version in versions["Versions"])
    removals = Counter(marker["Key"] for marker in versions.get("DeleteMarkers", ()))
    twice = {key for key, count in puts.items() if count > 1 + removals[key]}
    assert not twice, "a part was uploaded twice"
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
    """A run that keeps one checkpoint, in a bucket that counts uploads."""
    cloud.clients["s3"].put_bucket_versioning(
        Bucket=cloud.name, VersioningConfiguration={"Status": "Enabled"}
    )
    cloud.create_run(TRAINER, checkpoint=CheckpointOptions(keep_last=1), env=env)
    cloud.open_attempt()


def let_continue(cloud: Cloud, machine: Machine) -> None:
    """Let a trainer that waits make its second step as soon as the first is committed."""
    wait_until(lambda: cloud.run().newest is not None, why="no save was committed")
    (machine.state / "output/second").touch()


def let_end(machine: Machine) -> None:
    """Let a trainer that waits make its last step."""
    (machine.state / "output/last").touch()


def finish(cloud: Cloud, tmp_path: Path) -> None:
    complete(cloud, tmp_path)
    check_parts(cloud)


def complete(cloud: Cloud, tmp_path: Path) -> None:
    """Wait until the run has completed, with the bytes of an uninterrupted run."""
    reports = cloud.tokens.wait_for(
        lambda: [end for end in cloud.tokens.reports if end["outcome"]["kind"] == "completed"], 120
    )
    assert reports[0]["outcome"]["step"] == STEPS, reports[0]
    assert check_whole(cloud, tmp_path) == STEPS


def lose(cloud: Cloud, number: int) -> None:
    """End an attempt that went silent, as the state machine does."""
    cloud.ledger.end_attempt(
        cloud.run_id, number, outcome=Outcome(kind=OutcomeKind.LOST, reason="gone"), now=now()
    )
    cloud.open_attempt(number + 1)
    cloud.give_token(number + 1)


def seed(cloud: Cloud, tmp_path: Path, *, step: int) -> None:
    """Commit a checkpoint as attempt 1 would."""
    folder = tmp_path / "seed"
    folder.mkdir()
    for name, content in content_of(step).items():
        (folder / name).write_bytes(content)
    view = pin(folder, scan_folder(folder), tmp_path / "seed-pins")
    uploader = Uploader(store_of(cloud))
    uploaded = uploader.upload(
        Snapshot(view, tuple(view)), tmp_path / "seed-pins", superseded=threading.Event()
    )
    manifest = Manifest(
        run_id=cloud.run_id,
        step=step,
        attempt=1,
        taken_at=now().isoformat(),
        entries=uploaded.entries,
    )
    key = store_of(cloud).put_manifest(manifest)
    cloud.ledger.commit_checkpoint(
        cloud.run_id, 1, step=step, save=step, manifest=key, progressed=True, now=now()
    )
