"""A bad restore: the trainer restarts from the previous checkpoint, unless it is at fault."""

from __future__ import annotations

import json
import os

import pytest

from runctl.fault_points import FALLBACK
from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import Cloud, Machine, wait_until
from tests.agent.planting import plant

pytestmark = pytest.mark.slow

# A save is a folder with two files, of which the second is gathered later; a load reads both.
GATHERS = """
    import json, os, sys, time
    from pathlib import Path

    root = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    saves = sorted(root.glob("ckpt-*"), key=lambda p: int(p.name[5:]))
    resume_step = os.environ["RUNCTL_RESUME_STEP"]
    print("given", [p.name for p in saves], "step", resume_step, flush=True)
    (root / "settings.json").write_text(json.dumps({"started": time.time()}))
    time.sleep(float(os.environ.get("LOADS_FOR", "0")))
    step = json.loads((saves[-1] / "b.json").read_text()) if saves else 0
    print("from", step, flush=True)
    while step < 4:
        step += 1
        to = root / f"ckpt-{step}"
        to.mkdir(exist_ok=True)
        (to / "a.bin").write_bytes(os.urandom(1 << 16))
        (to / "b.json").write_text(json.dumps(step))
        time.sleep(float(os.environ.get("PACE", "0.1")))
    print("done", flush=True)
"""


def whole(*steps: int) -> dict[str, bytes]:
    files = {}
    for step in steps:
        files[f"ckpt-{step}/a.bin"] = os.urandom(1 << 16)
        files[f"ckpt-{step}/b.json"] = json.dumps(step).encode()
    return files


def torn(*steps: int, good: tuple[int, ...] = ()) -> dict[str, bytes]:
    files = whole(*good)
    for step in steps:
        files[f"ckpt-{step}/a.bin"] = os.urandom(1 << 16)
    return files


def begun(cloud: Cloud, program: str = GATHERS, **request) -> None:
    """A run whose first attempt has the fence, so that checkpoints can be committed for it."""
    cloud.create_run(program, **request)
    cloud.open_attempt()
    cloud.give_token()


def resume(cloud: Cloud, launch, number: int = 2) -> Machine:
    """The next attempt, with its token."""
    cloud.open_attempt(number)
    cloud.give_token(number)
    return launch(attempt=number)


def printed(machine: Machine) -> list[str]:
    path = machine.state / "log/trainer.out"
    return path.read_text().splitlines() if path.exists() else []


def test_save_that_was_still_being_gathered_sets_the_run_back_by_one_step(
    cloud: Cloud, launch
) -> None:
    begun(cloud)
    good = plant(cloud, whole(1), step=1)
    bad = plant(cloud, torn(2, good=(1,)), step=2)
    machine = resume(cloud, launch)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("completed", 4)
    assert printed(machine) == [
        "given ['ckpt-1', 'ckpt-2'] step 2",
        "given ['ckpt-1'] step 1",
        "from 1",
        "done",
    ]
    assert machine.wait() == 0
    run = cloud.run()
    assert bad in run.suspects
    assert run.proven == good
    assert run.newest not in run.suspects
    attempt = cloud.attempt(2)
    assert (attempt.resume_step, attempt.resume_save) == (1, 1)
    assert "the trainer exited with 1 after it was given step 2" in attempt.warning
    assert "restarted from step 1" in attempt.warning
    log = machine.agent_log()
    assert "attempt 2: the trainer exited with 1" in log
    assert "restarting it from step 1 (the previous one)" in log


def test_files_written_before_the_load_do_not_prove_the_checkpoint(cloud: Cloud, launch) -> None:
    # Long enough for its settings to be committed, next to the incomplete save.
    begun(cloud, env={"LOADS_FOR": "4"})
    good = plant(cloud, whole(1), step=1)
    bad = plant(cloud, torn(2, good=(1,)), step=2)
    machine = resume(cloud, launch)
    assert cloud.outcome(90)["kind"] == "completed"
    machine.wait()
    assert printed(machine)[1:3] == ["given ['ckpt-1'] step 1", "from 1"]
    run = cloud.run()
    assert run.proven == good
    assert bad in run.suspects
    assert len(run.suspects) == 2, "the one with its settings"


def test_trainer_that_always_dies_fails_the_run_with_one_message(cloud: Cloud, launch) -> None:
    begun(cloud)
    for step in (1, 2, 3, 4, 5):
        plant(cloud, torn(*range(1, step + 1)), step=step)
    machine = resume(cloud, launch)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["exit_code"] == 1
    assert outcome["reason"].startswith(
        "exit code 1 from step 5, and again from step 4, step 3 and step 2: "
    )
    # The last words of the first try, not those of the last.
    assert "ckpt-5/b.json" in outcome["reason"]
    assert outcome["reason"].count("FileNotFoundError") == 1
    assert len([line for line in printed(machine) if line.startswith("given")]) == 4
    machine.wait()
    # The program is at fault, so no checkpoint is: the next attempt begins with the newest.
    assert cloud.run().suspects == frozenset()


def test_after_the_first_checkpoint_of_a_run_the_trainer_starts_from_scratch(
    cloud: Cloud, launch
) -> None:
    begun(cloud)
    bad = plant(cloud, torn(1), step=1)
    machine = resume(cloud, launch)
    assert cloud.outcome()["kind"] == "completed"
    assert printed(machine)[1:3] == ["given [] step ", "from 0"]
    machine.wait()
    assert bad in cloud.run().suspects
    assert cloud.run().proven is None
    assert cloud.attempt(2).resume_step is None


def test_after_a_later_checkpoint_the_trainer_never_starts_from_scratch(
    cloud: Cloud, launch
) -> None:
    begun(cloud)
    plant(cloud, torn(1), step=1)
    plant(cloud, torn(1, 2), step=2, keep_last=0)
    key = cloud.run().newest
    # As after retention: the earlier ones are gone, although it is not the first.
    document = json.loads(cloud.read(key))
    document["metadata"] = {"previous": ["runs/run-1/checkpoints/manifests/gone.json"]}
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key=key, Body=json.dumps(document).encode())
    machine = resume(cloud, launch)
    assert cloud.outcome()["kind"] == "failed"
    assert len([line for line in printed(machine) if line.startswith("given")]) == 1
    machine.wait()
    assert cloud.run().suspects == frozenset()


def test_trainer_that_fails_without_a_restore_is_not_started_again(cloud: Cloud, launch) -> None:
    begun(cloud, "print('hello', flush=True); raise SystemExit(3)")
    machine = launch()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("failed", 3)
    assert printed(machine) == ["hello"]


def test_failure_after_a_save_beyond_the_restore_is_the_trainers_own(cloud: Cloud, launch) -> None:
    begun(
        cloud,
        """
        import os, pathlib, sys, time
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        step = int(os.environ["RUNCTL_RESUME_STEP"]) + 1
        print("at", step, flush=True)
        (folder / f"step-{step}.bin").write_bytes(b"x" * 1000)
        while not pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "go-on").exists():
            time.sleep(0.02)
        sys.exit("loss is nan")
        """,
    )
    plant(cloud, {"step-1.bin": b"1"}, step=1)
    good = plant(cloud, {"step-2.bin": b"2"}, step=2)
    machine = resume(cloud, launch)
    wait_until(lambda: cloud.run().proven == good)
    (machine.state / "output/go-on").touch()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("failed", 3)
    assert outcome["reason"] == "exit code 1: loss is nan"
    assert printed(machine) == ["at 3"]
    machine.wait()
    assert (cloud.run().proven, cloud.run().suspects) == (good, frozenset())


def test_a_proven_checkpoint_is_not_doubted(cloud: Cloud, launch) -> None:
    begun(cloud, "raise SystemExit('always')")
    plant(cloud, {"step-1.bin": b"1"}, step=1)
    proven = plant(cloud, {"step-2.bin": b"2"}, step=2)
    cloud.ledger.mark_proven(cloud.run_id, 1, proven)
    resume(cloud, launch)
    assert cloud.outcome()["reason"] == "exit code 1: always"
    assert cloud.run().suspects == frozenset()


def test_a_killed_trainer_says_nothing_about_its_checkpoint(cloud: Cloud, launch) -> None:
    begun(cloud, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    plant(cloud, {"step-1.bin": b"1"}, step=1)
    plant(cloud, {"step-2.bin": b"2"}, step=2)
    resume(cloud, launch)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("failed", -9)
    assert cloud.run().suspects == frozenset()


def test_the_next_attempt_is_given_no_suspect(cloud: Cloud, launch) -> None:
    begun(cloud)
    plant(cloud, whole(1), step=1)
    bad = plant(cloud, torn(2, good=(1,)), step=2)
    cloud.ledger.mark_suspect(cloud.run_id, 1, bad)
    cloud.open_attempt(2)
    machine = launch(attempt=2)
    # It is fetched before the token, too.
    incoming = machine.state / "incoming"
    wait_until(lambda: incoming.is_dir() and len(list(incoming.iterdir())) == 2)
    cloud.give_token(2)
    assert cloud.outcome()["kind"] == "completed"
    assert printed(machine)[0] == "given ['ckpt-1'] step 1"
    assert "was not restored: a trainer died from it" in machine.agent_log()


def test_suspects_are_given_when_nothing_else_is_left(cloud: Cloud, launch) -> None:
    begun(cloud)
    only = plant(cloud, whole(1), step=1)
    cloud.ledger.mark_suspect(cloud.run_id, 1, only)
    machine = resume(cloud, launch)
    assert cloud.outcome()["kind"] == "completed"
    assert printed(machine)[0] == "given ['ckpt-1'] step 1"
    machine.wait()
    # A trainer continued from it after all.
    assert (cloud.run().proven, cloud.run().suspects) == (only, frozenset())


DIES_ONCE_THEN_WAITS = """
    import os, pathlib, sys, time
    step = os.environ["RUNCTL_RESUME_STEP"]
    print("given", step, flush=True)
    if step == "2":
        sys.exit("cannot load")
    time.sleep(999)
"""


def test_notice_during_a_fallback_is_an_interruption(cloud: Cloud, launch) -> None:
    begun(cloud, DIES_ONCE_THEN_WAITS)
    plant(cloud, {"step-1.bin": b"1"}, step=1)
    bad = plant(cloud, {"step-2.bin": b"2"}, step=2)
    machine = resume(cloud, launch)
    wait_until(lambda: printed(machine) == ["given 2", "given 1"])
    machine.metadata.give_notice(60)
    assert cloud.outcome()["kind"] == "interrupted"
    # No trainer continued from it or ended by itself, so the mark stays and nothing is proven.
    assert (cloud.run().proven, cloud.run().suspects) == (None, frozenset({bad}))


def test_a_machine_lost_in_a_fallback_leaves_the_mark(cloud: Cloud, launch) -> None:
    begun(cloud, GATHERS)
    plant(cloud, whole(1), step=1)
    bad = plant(cloud, torn(2, good=(1,)), step=2)
    cloud.open_attempt(2)
    cloud.give_token(2)
    first = launch(attempt=2, fault=FALLBACK[0])
    assert first.wait() != 0
    assert bad in cloud.run().suspects
    second = resume(cloud, launch, 3)
    assert cloud.outcome()["kind"] == "completed"
    assert printed(second)[0] == "given ['ckpt-1'] step 1"


def test_folder_inside_the_project_starts_with_the_projects_contents(cloud: Cloud, launch) -> None:
    begun(
        cloud,
        """
        import pathlib, sys
        folder = pathlib.Path("saved")
        print(sorted(path.name for path in folder.iterdir()), flush=True)
        if (folder / "step-1.bin").exists():
            (folder / "template.txt").unlink()
            sys.exit("cannot load")
        print((folder / "template.txt").read_text(), flush=True)
        """,
        files={"saved/template.txt": "as it was"},
        checkpoint=CheckpointOptions(dir="saved"),
    )
    plant(cloud, {"step-1.bin": b"", "template.txt": b"old"}, step=1)
    machine = resume(cloud, launch)
    assert cloud.outcome()["kind"] == "completed"
    assert printed(machine) == [
        "['step-1.bin', 'template.txt']",
        "['template.txt']",
        "as it was",
    ]
