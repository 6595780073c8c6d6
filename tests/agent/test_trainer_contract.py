"""Trainers that use the helper, run by the real agent and interrupted in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runctl.agent.runtime.environment import TrainerVariables, trainer_environment
from runctl.agent.runtime.training_path import lay_out
from tests.agent.machine import PROJECT, Cloud, wait_until
from tests.training.place import framework_python, undisturbed
from tests.training.programs import LIGHTNING, TRANSFORMERS

EXAMPLE = (PROJECT / "examples/training/train_with_helper.py").read_text()


def printed(machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text() if path.exists() else ""


def submit(cloud: Cloud, program: str, *arguments: str) -> None:
    """Submit a program that runs with the frameworks, without another installation."""
    cloud.create_run(program, script="", command=(str(framework_python()), "train.py", *arguments))


def interrupted_once(cloud: Cloud, launch, *, after: str) -> tuple[int, str]:
    """Send a notice after the trainer's line, and run a second attempt to its end.

    Return the step at which the first attempt ended, and the output of the second trainer.
    """
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: f"{after}\n" in printed(first))
    first.metadata.give_notice(seconds=110)
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"]) == ("interrupted", 0)
    assert first.wait() == 0
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    reports = cloud.tokens.wait_for(lambda: cloud.tokens.reports[1:])
    assert reports[0]["outcome"]["kind"] == "completed", reports[0]["outcome"]
    assert cloud.attempt(2).resume_step == outcome["step"]
    return outcome["step"], printed(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "after", "resumed"),
    [
        (LIGHTNING, "step 12", "from {:09d}.ckpt"),
        (TRANSFORMERS, "step 12", "from {}"),
    ],
    ids=["lightning", "transformers"],
)
def test_framework_stops_at_the_notice_and_ends_with_the_bits_of_an_undisturbed_run(
    cloud: Cloud, launch, program: str, after: str, resumed: str
) -> None:
    # Steps slow enough that the notice arrives in the middle, however busy the machine is.
    submit(cloud, program, "0.25")
    with ThreadPoolExecutor(1) as meanwhile:
        expected = meanwhile.submit(undisturbed, program)
        step, second = interrupted_once(cloud, launch, after=after)
    assert 12 <= step < 30
    lines = second.splitlines()
    assert resumed.format(step) in lines
    assert lines[-1] == "done 30"
    assert f"step {step + 1}" in lines
    assert f"step {step}" not in lines
    assert cloud.read("runs/run-1/outputs/weights").decode() == expected.result()
    assert cloud.run().step == 30


@pytest.mark.slow
def test_the_example_is_interrupted_and_ends_with_the_same_bits(
    cloud: Cloud, launch, tmp_path: Path
) -> None:
    environment = {"PYTHONPATH": str(lay_out(tmp_path / "helper"))}
    script = PROJECT / "examples/training/train_with_helper.py"
    command = [framework_python(), script, "--steps", "40", "--every", "60"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=240)
    arguments = ("--steps", "40", "--every", "60", "--step-seconds", "0.2")
    submit(cloud, EXAMPLE, *arguments)
    step, second = interrupted_once(cloud, launch, after="step 10")
    assert 10 <= step < 40
    assert f"resumed at step {step}" in second.splitlines()
    expected = (tmp_path / "outputs/model.json").read_bytes()
    assert cloud.read("runs/run-1/outputs/model.json") == expected


@pytest.mark.slow
def test_a_requested_checkpoint_is_saved_by_the_helper_and_taken_at_once(
    cloud: Cloud, launch
) -> None:
    program = """
        import time
        from runctl import training
        step = 0
        while not training.should_stop():
            time.sleep(0.02)
            step += 1
            if training.should_save():
                training.save(lambda path: path.write_text(str(step)), step, keep=2)
                print("saved", step, flush=True)
            elif step == 1:
                print("going", flush=True)
    """
    cloud.create_run(program)
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: "going" in printed(machine))
    machine.ask("checkpoint")
    wait_until(lambda: cloud.run().step)
    step = cloud.run().step
    assert f"saved {step}" in printed(machine)
    assert wait_until(lambda: cloud.keys("runs/run-1/checkpoints"))
    machine.ask("stop")
    assert cloud.outcome()["kind"] == "stopped"
    assert (
        json.loads((machine.root / "run/runctl/saved.jsonl").read_text().splitlines()[0])["step"]
        == step
    )


VARIABLES = TrainerVariables(
    run_id="run-1",
    attempt=1,
    resume_step=None,
    checkpoint=Path("/c"),
    inputs=Path("/i"),
    outputs=Path("/o"),
    metrics=Path("/m"),
    checkpoint_request=Path("/r"),
    saved=Path("/s"),
)


def environment_of(project: Path, helper: Path, **env: str) -> dict[str, str]:
    return trainer_environment(
        {},
        env=env,
        variables=VARIABLES,
        environment=Path(sys.prefix),
        project=project,
        training_path=helper,
    )


def imported(project: Path, env: dict[str, str], statement: str) -> str:
    script = project / "train.py"
    script.write_text(f"{statement}\n")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_helper_is_found_after_all_modules_of_the_project(tmp_path: Path) -> None:
    project, helper = tmp_path / "project", lay_out(tmp_path / "helper")
    (project / "src").mkdir(parents=True)
    env = environment_of(project, helper)
    assert env["PYTHONPATH"] == f"{project / 'src'}:{helper}"
    assert environment_of(project, helper, PYTHONPATH="lib")["PYTHONPATH"] == f"lib:{helper}"
    where = "from runctl import training; print(training.__file__)"
    assert imported(project, env, where) == str(helper / "runctl/training.py")


@pytest.mark.parametrize(
    "own", ["runctl.py", "runctl/__init__.py", "src/runctl/__init__.py", "src/runctl.py"]
)
def test_a_module_of_the_project_with_our_name_is_never_hidden(tmp_path: Path, own: str) -> None:
    project, helper = tmp_path / "project", lay_out(tmp_path / "helper")
    (project / own).parent.mkdir(parents=True)
    (project / own).write_text("name = 'mine'")
    env = environment_of(project, helper)
    assert imported(project, env, "import runctl; print(runctl.name)") == "mine"


def test_a_folder_of_the_project_with_our_name_and_no_init_is_not_hidden(tmp_path: Path) -> None:
    project, helper = tmp_path / "project", lay_out(tmp_path / "helper")
    (project / "runctl").mkdir(parents=True)
    (project / "runctl/training.py").write_text("name = 'mine'")
    env = environment_of(project, helper)
    assert imported(project, env, "from runctl import training as t; print(t.name)") == "mine"


def test_an_installed_runctl_stays_whole_behind_the_helper(tmp_path: Path) -> None:
    project, helper = tmp_path / "project", lay_out(tmp_path / "helper")
    project.mkdir()
    env = environment_of(project, helper)
    statement = (
        "import runctl.model.errors as e, runctl.training as t; print(e.__file__, t.__file__)"
    )
    found = imported(project, env, statement).split()
    assert found == [str(PROJECT / "runctl/model/errors.py"), str(helper / "runctl/training.py")]


def test_only_the_trainers_part_is_installed(tmp_path: Path) -> None:
    lay_out(tmp_path / "helper")
    helper = lay_out(tmp_path / "helper")  # also over the files of an earlier agent
    files = sorted(str(path.relative_to(helper)) for path in helper.rglob("*") if path.is_file())
    hooks = ["__init__", "lightning", "pulse", "pytorch", "sharded", "transformers"]
    assert files == [
        "runctl/__init__.py",
        *(f"runctl/hooks/{name}.py" for name in hooks),
        "runctl/training.py",
    ]
