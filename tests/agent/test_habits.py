"""The ways in which real programs save: the agent and the trainer are killed in the middle."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.checkpoint.restore import Restorer
from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

# `save(n, pause)` saves state n and calls `pause` in the middle of it. `found()` returns the state
# that the folder holds, 0 for none, and fails when anything in the folder is torn.
COMMON = """
SIZE = 100_000

def content(n):
    return bytes([n]) * SIZE

def write_slowly(path, n, pause, mode="wb"):
    with open(path, mode) as stream:
        stream.write(content(n)[: SIZE // 2])
        stream.flush()
        pause()
        stream.write(content(n)[SIZE // 2 :])

def state_of(path):
    found = path.read_bytes()
    assert len(found) == SIZE and len(set(found)) == 1, f"{path.name} is torn"
    return found[0]

def states(pattern):
    return [state_of(path) for path in sorted(folder.glob(pattern))]
"""

HABITS = {
    "overwrites in place": """
        def save(n, pause):
            path = folder / "model.bin"
            write_slowly(path, n, pause, "r+b" if path.exists() else "wb")

        def found():
            return max(states("model.bin"), default=0)
    """,
    "writes a folder file by file": """
        def save(n, pause):
            (folder / f"checkpoint-{n}").mkdir(exist_ok=True)
            (folder / f"checkpoint-{n}/model.bin").write_bytes(content(n))
            write_slowly(folder / f"checkpoint-{n}/optimizer.bin", n, pause)

        def found():
            assert states("*/model.bin") == states("*/optimizer.bin"), "half a folder"
            return max(states("*/model.bin"), default=0)
    """,
    "renames a temporary file": """
        def save(n, pause):
            write_slowly(folder / "model.bin.tmp", n, pause)
            os.replace(folder / "model.bin.tmp", folder / "model.bin")

        def found():
            return max(states("*"), default=0)
    """,
    "links a temporary file": """
        def save(n, pause):
            write_slowly(folder / ".new", n, pause)
            os.link(folder / ".new", folder / f"model-{n}.bin")
            os.unlink(folder / ".new")

        def found():
            return max(states("*"), default=0)
    """,
    "keeps several and the best": """
        def save(n, pause):
            (folder / f"epoch-{n}.bin").write_bytes(content(n))
            write_slowly(folder / "best.bin", n, pause)

        def found():
            assert len(states("best.bin")) == bool(states("epoch-*")), "the best is missing"
            return max(states("*"), default=0)
    """,
    "removes the old one first": """
        def save(n, pause):
            for old in folder.glob("step-*.bin"):
                old.unlink()
            write_slowly(folder / f"step-{n}.bin", n, pause)

        def found():
            return max(states("step-*.bin"), default=0)
    """,
    "holds a log open": """
        log = None

        def save(n, pause):
            global log
            log = log or open(folder / "train.log", "a")
            print("saving", n, file=log, flush=True)
            write_slowly(folder / f"model-{n}.bin", n, pause)

        def found():
            return max(states("model-*.bin"), default=0)
    """,
}
# Where a program has finished one file of a save and works on another, the finished one counts.
MAY_BE_AHEAD = {"keeps several and the best"}

TRAINER = """
import os, pathlib, sys, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
go = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"]) / "go"
{habit}

def stall():
    print("middle", flush=True)
    time.sleep(600)

state = found()
print("found", state, os.getpid(), flush=True)
if not state:
    save(1, lambda: None)
while not go.exists():
    time.sleep(0.02)
save(found() + 1, stall)
"""

# Saves so often that no folder could settle in between.
WITHOUT_PAUSE = """
import os, pathlib, time
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
{habit}

state = found()
print("found", state, os.getpid(), flush=True)
while True:
    state = state % 250 + 1
    save(state, lambda: time.sleep(0.2))
    time.sleep(0.3)
"""


def source_of(habit: str) -> str:
    return COMMON + textwrap.dedent(HABITS[habit])


def printed(machine: Any) -> list[str]:
    path = machine.state / "log/trainer.out"
    return path.read_text().splitlines() if path.exists() else []


def starts(machine: Any) -> list[list[str]]:
    return [line.split() for line in printed(machine) if line.startswith("found")]


def found_in_the_newest(cloud: Cloud, habit: str, place: Path) -> int:
    """Restore the newest checkpoint, as any other machine would, and examine it."""
    newest = cloud.run().newest
    assert newest is not None
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id="run-1")
    restorer = Restorer(store, place / "incoming")
    restorer.put_in_place(restorer.fetch(newest).manifest, place / "folder")
    names: dict[str, Any] = {"folder": place / "folder", "os": os}
    exec(source_of(habit), names)
    return int(names["found"]())


def begin(cloud: Cloud, launch: Any, program: str, habit: str) -> Any:
    cloud.create_run(program.format(habit=source_of(habit)))
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: cloud.run().newest, why="nothing was committed")
    return machine


@pytest.mark.parametrize("habit", HABITS)
def test_kill_in_the_middle_of_a_save_leaves_the_previous_one_whole(
    cloud: Cloud, launch, tmp_path: Path, habit: str
) -> None:
    machine = begin(cloud, launch, TRAINER, habit)
    (machine.state / "output/go").touch()
    wait_until(lambda: "middle" in printed(machine))
    machine.kill_agent()
    machine.start()
    wait_until(lambda: len(starts(machine)) == 2, why="the trainer was not started again")
    expected = {1, 2} if habit in MAY_BE_AHEAD else {1}
    assert int(starts(machine)[1][1]) in expected
    wait_until(lambda: printed(machine).count("middle") == 2)

    os.kill(int(starts(machine)[1][2]), signal.SIGKILL)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("failed", -9)
    kept = found_in_the_newest(cloud, habit, tmp_path)
    assert kept in ({1, 2, 3} if habit in MAY_BE_AHEAD else {1})


def test_program_that_saves_without_pause_is_never_kept_torn(
    cloud: Cloud, launch, tmp_path: Path
) -> None:
    habit = "overwrites in place"
    machine = begin(cloud, launch, WITHOUT_PAUSE, habit)
    machine.kill_agent()
    before = found_in_the_newest(cloud, habit, tmp_path / "1")
    assert before > 0
    machine.start()
    wait_until(lambda: len(starts(machine)) == 2, why="the trainer was not started again")
    assert int(starts(machine)[1][1]) == before
    newest = cloud.run().newest
    wait_until(lambda: cloud.run().newest != newest, why="nothing more was committed")
    os.kill(int(starts(machine)[1][2]), signal.SIGKILL)
    assert cloud.outcome()["exit_code"] == -9
    assert found_in_the_newest(cloud, habit, tmp_path / "2") > 0
