"""Programs whose names, logs and scores are easily mistaken for steps, and the steps they get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.model.checkpoint import Manifest
from runctl.model.outcome import Outcome, OutcomeKind
from tests.agent.machine import Cloud, Machine, now, wait_until

pytestmark = pytest.mark.slow

# Writes the given files, round by round; each round waits until the previous one has been saved.
# Later attempts start from the beginning, as if nothing were there.
TRAINER = """
import json, os, pathlib, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
go = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
attempt = os.environ["RUNCTL_ATTEMPT"]
print("given", repr(os.environ["RUNCTL_RESUME_STEP"]), flush=True)
logs = {{}}
for number, files in enumerate(json.loads({rounds!r}).get(attempt, [])):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in {logs!r}:
            with path.open("a") as log:
                log.write(text)
            continue
        (folder / "part").write_text(text)
        (folder / "part").replace(path)
    while not (go / f"go-{{attempt}}-{{number}}").exists():
        time.sleep(0.02)
print("over", flush=True)
if "LAST" in os.environ:
    (folder / os.environ["LAST"]).write_text("last")
else:
    time.sleep(1000)
"""
LOGS = ["run.log", "log/events.out.tfevents.1795890000.myhost"]
EVENTS = LOGS[1]

PROGRAMS: dict[str, tuple[list[dict[str, str]], list[int | None]]] = {
    "a score behind the step": (
        [{f"epoch=0-step={n}-acc=0.{9000 + n}.ckpt": "x" * n} for n in (4, 8, 12)],
        [4, 8, 12],
    ),
    "a loss behind the step": (
        [{f"step={n}-loss={0.9 - n / 10:.4f}.ckpt": "x" * (n + 1)} for n in (0, 1, 2)],
        [0, 1, 2],
    ),
    "an event log next to the saves": (
        [{EVENTS: "begin"}, {"step-1.ckpt": "1", EVENTS: "1"}, {"step-2.ckpt": "2", EVENTS: "2"}],
        [None, 1, 2],
    ),
    "a log between the saves": (
        [
            {"epoch-1.pt": "1"},
            {"run.log": "one\n"},
            {"run.log": "two\n"},
            {"epoch-2.pt": "2"},
            {"run.log": "three\n"},
        ],
        [1, 1, 1, 2, 2],
    ),
    "a best model without a number": (
        [{"checkpoint-1000.pt": "1"}, {"best.pt": "1"}, {"best.pt": "22"}],
        [1000, 1000, 1000],
    ),
    "a config written before training": (
        [{"config.json": '{"step": 100}'}, {"model.pt": "1"}],
        [None, None],
    ),
    "a folder named by the date": (
        [{"2026-11-28/18-20-45/last.txt": "1"}, {"2026-11-28/18-20-45/last.txt": "22"}],
        [None, None],
    ),
    "a step in a small file": (
        [{"model.pt": "x" * n, "state.json": json.dumps({"step": n})} for n in (7, 14)],
        [7, 14],
    ),
}


def store_of(cloud: Cloud) -> CheckpointStore:
    return CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)


def begin(
    cloud: Cloud, launch: Any, rounds: dict[str, list[dict[str, str]]], **env: str
) -> Machine:
    cloud.create_run(TRAINER.format(rounds=json.dumps(rounds), logs=LOGS), env=env)
    return follow(cloud, launch, 1)


def follow(cloud: Cloud, launch: Any, number: int) -> Machine:
    cloud.open_attempt(number)
    cloud.give_token(number)
    machine: Machine = launch(attempt=number) if number > 1 else launch()
    return machine


def lose(cloud: Cloud, machine: Machine, number: int) -> None:
    machine.kill_agent()
    machine.end()
    lost = Outcome(kind=OutcomeKind.LOST, reason="gone")
    cloud.ledger.end_attempt(cloud.run_id, number, outcome=lost, now=now())


def saved(cloud: Cloud, machine: Machine, number: int, files: dict[str, str]) -> Manifest:
    """Wait until the newest checkpoint contains the files of a round, then let it continue."""

    def holds() -> Manifest | None:
        key = cloud.run().newest
        if key is None:
            return None
        manifest = store_of(cloud).get_manifest(key)
        held = {entry.path: entry for entry in manifest.entries}
        for path in files:
            here = (machine.checkpoint / path).stat()
            entry = held.get(path)
            if entry is None or (entry.size_bytes, entry.mtime_ns) != (
                here.st_size,
                here.st_mtime_ns,
            ):
                return None
        return manifest

    def written() -> bool:
        paths = {machine.checkpoint / path: text for path, text in files.items()}
        return all(path.exists() and path.read_text().endswith(paths[path]) for path in paths)

    wait_until(written)
    manifest: Manifest = wait_until(holds)
    (machine.state / "output" / f"go-{machine.attempt}-{number}").touch()
    return manifest


def said(machine: Machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_step_is_the_one_that_the_saves_state_or_is_unknown(
    cloud: Cloud, launch: Any, name: str
) -> None:
    rounds, steps = PROGRAMS[name]
    machine = begin(cloud, launch, {"1": rounds})
    found = [saved(cloud, machine, at, files).step for at, files in enumerate(rounds)]
    assert found == steps
    run = cloud.run()
    assert run.step == steps[-1]
    assert run.save >= len(rounds)
    name_of = f"save {run.save}" if steps[-1] is None else f"step {steps[-1]}"
    # The agent logs a commit after the ledger has it.
    wait_until(lambda: f"committed {name_of}:" in machine.agent_log())
    lose(cloud, machine, 1)
    second = follow(cloud, launch, 2)
    given = "" if steps[-1] is None else str(steps[-1])
    wait_until(lambda: f"given '{given}'" in said(second))
    wait_until(lambda: cloud.attempt(2).resume_save == run.save)
    assert cloud.attempt(2).resume_step == steps[-1]
    assert f"restored {name_of} from" in second.agent_log()


def test_program_that_starts_over_causes_a_warning_and_loses_nothing(
    cloud: Cloud, launch: Any
) -> None:
    rounds = {
        "1": [{"step-140.ckpt": "1"}, {"step-150.ckpt": "1"}],
        "2": [{f"step-{step}.ckpt": "22"} for step in (10, 20, 30, 40)],
    }
    machine = begin(cloud, launch, rounds)
    for at, files in enumerate(rounds["1"]):
        saved(cloud, machine, at, files)
    lose(cloud, machine, 1)
    second = follow(cloud, launch, 2)
    for at, files in enumerate(rounds["2"]):
        saved(cloud, second, at, files)
    wait_until(lambda: "over" in said(second))
    warning = wait_until(lambda: cloud.attempt(2).warning)
    assert "attempt 2 was given step 150 but saved step 10: it did not resume" in warning
    assert "did not resume" in second.agent_log()
    store, run = store_of(cloud), cloud.run()
    previous = store.get_manifest(run.newest or "").metadata["previous"]
    assert [store.get_manifest(key).step for key in previous] == [30, 150]
    assert (run.step, run.best_step, run.progressed_attempt) == (40, 150, 1)


def test_saves_without_a_step_are_counted_and_three_of_them_stay(cloud: Cloud, launch: Any) -> None:
    rounds = [{"state": f"turn {turn}", "tower-2": f"turn {turn}"} for turn in range(5)]
    machine = begin(cloud, launch, {"1": rounds})
    for at, files in enumerate(rounds):
        manifest = saved(cloud, machine, at, files)
    assert manifest.step is None
    wait_until(lambda: "over" in said(machine))
    machine.ask("stop")
    cloud.outcome()
    store = store_of(cloud)
    keys = store.manifest_keys()
    assert keys[0] == cloud.run().newest
    assert len(keys) == 3
    saves = [store.get_manifest(key).save for key in keys]
    assert saves == sorted(saves, reverse=True)


def test_ended_run_keeps_no_more_checkpoints_than_requested(cloud: Cloud, launch: Any) -> None:
    rounds = [{f"step-{step}.pt": "1"} for step in (1, 2, 3)]
    machine = begin(cloud, launch, {"1": rounds}, LAST="step-4.pt")
    for at, files in enumerate(rounds):
        saved(cloud, machine, at, files)
    assert cloud.outcome(60)["kind"] == "completed"
    store = store_of(cloud)
    assert [store.get_manifest(key).step for key in store.manifest_keys()] == [4, 3, 2]
    assert cloud.run().step == 4
