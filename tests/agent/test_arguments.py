"""Arguments of a real trainer: references to the contract, and those of a resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.runtime.environment import TrainerVariables
from runctl.agent.runtime.world import World
from runctl.model.contract import CONTRACT_VARIABLES
from runctl.model.subject import Subject
from runctl.model.trial_options import TrialOptions
from tests.agent.machine import Cloud, wait_until

PROGRAM = """
import json, os, pathlib, signal, sys, time

folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
print(json.dumps([sys.argv[1:], str(folder)]), flush=True)
if any(folder.iterdir()):
    sys.exit()

def save(*_):
    (folder / "step-7.pt").write_text("saved")
    sys.exit()

signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""


def test_every_variable_of_the_contract_can_be_referenced(tmp_path: Path) -> None:
    folders = dict.fromkeys(
        (
            "checkpoint",
            "inputs",
            "outputs",
            "metrics",
            "checkpoint_request",
            "saved",
            "partial",
            "tensorboard",
        ),
        tmp_path,
    )
    variables = TrainerVariables(
        run_id="r",
        attempt=1,
        resume_step=None,
        port=8080,
        trial=TrialOptions(number=1),
        evaluated=Subject(run_id="r", key="k", step=4),
        shard=0,
        shards=2,
        world=World(
            rank=0,
            nodes=2,
            processes=1,
            address="10.0.0.1",
            port=29500,
            interface="",
            has_gpus=False,
            pulses=tmp_path,
            has_launcher=True,
        ),
        **folders,
    )
    assert set(variables.as_environment()) == set(CONTRACT_VARIABLES)


@pytest.mark.parametrize("as_command", [False, True])
def test_trainer_gets_values_and_more_arguments_once_there_is_a_checkpoint(
    cloud: Cloud, launch: Any, as_command: bool
) -> None:
    words = ("--to=$RUNCTL_CHECKPOINT_DIR", "$$RUNCTL_X", "${RUNCTL_ATTEMPT}", "$HOME a b")
    program: dict[str, Any] = {"args": words}
    if as_command:
        program = {"script": "", "command": ("python", "train.py", *words)}
    more = ("--resume", "$RUNCTL_CHECKPOINT_DIR/step-$RUNCTL_RESUME_STEP.pt")
    cloud.create_run(PROGRAM, resume_args=more, **program)
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    output = first.state / "log/trainer.out"
    wait_until(lambda: output.exists() and "ready\n" in output.read_text())
    got, folder = json.loads(output.read_text().splitlines()[0])
    assert got == [f"--to={folder}", "$RUNCTL_X", "1", "$HOME a b"]
    first.metadata.give_notice(seconds=110)
    assert cloud.outcome()["kind"] == "interrupted"
    first.wait()
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    cloud.tokens.wait_for(lambda: cloud.tokens.reports[1:])
    got, folder = json.loads((second.state / "log/trainer.out").read_text().splitlines()[0])
    assert got == [
        f"--to={folder}", "$RUNCTL_X", "2", "$HOME a b", "--resume", f"{folder}/step-7.pt",
    ]  # fmt: skip
