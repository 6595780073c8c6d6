"""Sweeps on the deployed system: each trial once, through interruptions, pruning and a stop."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runctl.aws.services import AwsServices
from runctl.model.errors import NotFoundError
from runctl.model.identity import sweep_results_key
from runctl.model.trial import Trial, TrialState
from tests.e2e.printed import printed_command
from tests.e2e.testbed import PROJECT, Testbed, wait_for

pytestmark = pytest.mark.e2e
RUNCTL = str(Path(sys.executable).parent / "runctl")
# Instances share this machine: trace/ shows which points were tried, and gate/ lets trials go on.
TRAINER = """
import argparse, json, os, pathlib, time
from runctl import training

parser = argparse.ArgumentParser()
parser.add_argument("--learning_rate", type=float)
parser.add_argument("--batch_size", type=int)
options = parser.parse_args()
assert vars(options) == json.loads(os.environ["RUNCTL_HYPERPARAMETERS"])
shared = pathlib.Path(pathlib.Path("shared.txt").read_text())
point = f"{options.learning_rate}-{options.batch_size}"
found = training.restore()
step = found.step if found else 0
while step < 3 and not training.should_stop():
    if (shared / "hold" / point).exists() and step == 1:
        time.sleep(0.05)
        continue
    step += 1
    loss = abs(options.learning_rate - 0.01) * 10 + options.batch_size / 1000 / step
    with open(os.environ["RUNCTL_METRICS_FILE"], "a") as metrics:
        print(json.dumps({"step": step, "loss": loss}), file=metrics, flush=True)
    training.save(lambda path: path.write_text(str(step)), step)
    with open(shared / "trace" / point, "a") as trace:
        print(os.environ["RUNCTL_TRIAL"], step, file=trace, flush=True)
    time.sleep(float(os.environ.get("PACE", "0")))
"""

PLOTS = ["history.png", "importance.png", "parallel-coordinates.png"]
EXAMPLE = PROJECT / "examples/scripts/tune_digits.py"


@pytest.fixture
def shared(testbed: Testbed, tmp_path: Path) -> Path:
    for name in ("trace", "hold"):
        (tmp_path / name).mkdir()
        testbed.let_programs_write(tmp_path / name)
    return tmp_path


@pytest.fixture
def project(shared: Path) -> Path:
    folder = shared / "project"
    (folder / "training").mkdir(parents=True)
    (folder / "training/train.py").write_text(TRAINER)
    (folder / ".runctl.toml").write_text("")
    (folder / "shared.txt").write_text(str(shared))
    return folder


@pytest.fixture
def services(testbed: Testbed) -> AwsServices:
    return AwsServices(testbed.clients, testbed.deployment)


def start(testbed: Testbed, project: Path, command: str) -> subprocess.Popen[str]:
    words = shlex.split(command)
    return subprocess.Popen(
        [RUNCTL, *words[1:]],
        cwd=project,
        env={**os.environ, **testbed.endpoint.environment(), "HOME": str(project.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        # What is left of it would fail a later test.
        process.kill()
        process.communicate()
        raise
    return process.returncode, output


def newest_sweep(services: AwsServices, known: set[str]) -> str:
    def find() -> str | None:
        groups = services.groups.list_groups()
        return next((g.group_id for g in groups if g.group_id not in known), None)

    name = wait_for(find, "the sweep to begin")
    assert isinstance(name, str)
    return name


def trial_of(services: AwsServices, sweep: str, point: tuple[str, str]) -> Trial:
    def find() -> Trial | None:
        for trial in services.trials.list_trials(sweep):
            if (trial.chosen["learning_rate"].text, trial.chosen["batch_size"].text) == point:
                return trial
        return None

    found = wait_for(find, f"the trial of {point}")
    assert isinstance(found, Trial)
    return found


def wait_until_training(testbed: Testbed, run_id: str) -> None:
    workflow = testbed.workflow
    arn = workflow.execution_arn(run_id)
    wait_for(lambda: workflow.find_execution(arn), f"{run_id} to be started")
    testbed.wait_for_training(run_id, attempt=1, step=1)


def steps(shared: Path) -> Counter[str]:
    """Return how often each step of each point was done."""
    return Counter(
        f"{path.name} {line.split()[1]}"
        for path in (shared / "trace").iterdir()
        for line in path.read_text().splitlines()
    )


def results(services: AwsServices, sweep: str) -> dict[str, Any]:
    with services.blobs.open(sweep_results_key(sweep, "results.json")) as blob:
        document: dict[str, Any] = json.loads(b"".join(blob.chunks))
    return document


def plots(services: AwsServices, sweep: str) -> dict[str, bytes]:
    """Return the pictures that are stored when the execution of the sweep has ended.

    The sweep ends before they are drawn.
    """
    arn = services.groups.find_group(sweep).execution_arn
    wait_for(lambda: not services.sweep_workflow.is_running(arn), f"the execution of {sweep}")
    found = {}
    for name in PLOTS:
        key = sweep_results_key(sweep, f"plots/{name}")
        with contextlib.suppress(NotFoundError), services.blobs.open(key) as blob:
            found[name] = b"".join(blob.chunks)
    return found


def log_of_plots(testbed: Testbed, sweep: str) -> str:
    """Return what the function that draws has logged, which explains what is missing."""
    logs = testbed.clients.get("logs").get_paginator("filter_log_events")
    pages = logs.paginate(logGroupName="/aws/lambda/runctl-plot_sweep", filterPattern=f'"{sweep}"')
    return "\n".join(event["message"] for page in pages for event in page["events"])


def test_the_printed_command_tries_nine_points_once_through_two_interruptions(
    testbed: Testbed, services: AwsServices, project: Path, shared: Path
) -> None:
    known = {group.group_id for group in services.groups.list_groups()}
    noticed, lost = ("0.01", "64"), ("0.001", "32")
    for point in (noticed, lost):
        (shared / "hold" / "-".join(point)).touch()
    process = start(testbed, project, printed_command("runctl aws hyperparameter-tune"))
    sweep = newest_sweep(services, known)
    for point, notice in ((noticed, True), (lost, False)):
        run_id = trial_of(services, sweep, point).run_id
        wait_until_training(testbed, run_id)
        testbed.simulate_spot_interruption(run_id, attempt=1, notice=notice)
        testbed.wait_for_training(run_id, attempt=2)
        (shared / "hold" / "-".join(point)).unlink()
    code, output = finished(process)
    assert code == 0, output
    trials = services.trials.list_trials(sweep)
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 9, output
    done = steps(shared)
    assert len(done) == 27
    # Only the step whose save was lost may have been repeated.
    assert {step for step, count in done.items() if count > 1} <= {"0.001-32 1"}
    attempts = {
        trial.number: len(testbed.attempts(trial.run_id))
        for trial in trials
        if len(testbed.attempts(trial.run_id)) > 1
    }
    assert attempts == {trial_of(services, sweep, point).number: 2 for point in (noticed, lost)}, (
        testbed.story(trial_of(services, sweep, lost).run_id)
    )
    assert [trial["state"] for trial in results(services, sweep)["trials"]] == ["completed"] * 9
    # It has no metric to draw.
    assert "plots: " not in output
    assert plots(services, sweep) == {}
    assert "it has no metric" in log_of_plots(testbed, sweep)
    assert output.count("completed: batch_size=") == 9
    wait_for(
        lambda: not any(testbed.live_instances(trial.run_id) for trial in trials),
        "the instances of the trials to end",
    )


def test_a_sweep_that_learns_prunes_trials_that_are_worse(
    testbed: Testbed, services: AwsServices, project: Path, shared: Path
) -> None:
    known = {group.group_id for group in services.groups.list_groups()}
    process = start(
        testbed,
        project,
        "runctl aws hyperparameter-tune --script training/train.py --hyperparameters "
        "learning_rate:0.001..0.1:log batch_size:32,64 --instances 2 --spot --sampler tpe "
        "--metric loss --pruner asha --reduction-factor 2 --max-trials 4 --seed 5 --env PACE=3",
    )
    code, output = finished(process)
    assert code == 0, output
    sweep = newest_sweep(services, known)
    trials = services.trials.list_trials(sweep)
    assert len(trials) == 4
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.COMPLETED] >= 1, output
    assert states[TrialState.PRUNED] >= 1, output
    assert sum(states.values()) == states[TrialState.COMPLETED] + states[TrialState.PRUNED]
    for trial in trials:
        if trial.state is TrialState.PRUNED:
            # It saved, and its checkpoint stays.
            testbed.verify_checkpoint_exists(trial.run_id)
            assert trial.pruned_at in {1, 2}
            assert testbed.run(trial.run_id).ended.value == "completed"
    best = min(trial.value for trial in trials if trial.state is TrialState.COMPLETED)
    assert results(services, sweep)["best"]["value"] == best


def test_a_stopped_sweep_saves_and_resumes_with_what_is_missing(
    testbed: Testbed, services: AwsServices, project: Path, shared: Path
) -> None:
    for rate in ("0.1", "0.2", "0.3"):
        (shared / "hold" / f"{rate}-8").touch()
    name = f"stopped-{os.getpid()}"
    command = (
        "runctl aws hyperparameter-tune --script training/train.py --hyperparameters "
        f"learning_rate:0.1,0.2,0.3 batch_size:8 --instances 2 --spot --metric loss --name {name}"
    )
    process = start(testbed, project, command)
    for number in (1, 2):
        wait_until_training(testbed, f"{name}-{number:04d}")
    code, output = finished(start(testbed, project, f"runctl sweep stop {name}"))
    assert code == 0, output
    assert finished(process)[0] == 1
    states = [trial.state for trial in services.trials.list_trials(name)]
    assert states == [TrialState.STOPPED, TrialState.STOPPED], output
    assert "plots: " not in output
    for path in (shared / "hold").iterdir():
        path.unlink()
    code, output = finished(start(testbed, project, f"runctl sweep resume {name}"))
    assert code == 0, output
    trials = services.trials.list_trials(name)
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 3, output
    assert [trial.execution for trial in trials] == [
        f"{name}-0001-r2", f"{name}-0002-r2", f"{name}-0003",
    ]  # fmt: skip
    assert set(steps(shared).values()) == {1}
    assert f"plots: {services.objects.uri(sweep_results_key(name, 'plots/'))}" in output
    drawn = plots(services, name)
    assert list(drawn) == PLOTS, log_of_plots(testbed, name)
    assert all(picture.startswith(b"\x89PNG\r\n") for picture in drawn.values())


def test_the_example_finds_the_better_learning_rate_through_an_interruption(
    testbed: Testbed, services: AwsServices, tmp_path: Path
) -> None:
    # Its dependencies are those that `make setup` has downloaded.
    _, _, program = EXAMPLE.read_text().partition("# ///\n")
    wheels = PROJECT / "build" / "wheels"
    project = tmp_path / "project"
    project.mkdir()
    (project / "tune_digits.py").write_text(program)
    (project / "requirements.txt").write_text(
        f"--no-index\n--find-links {wheels}\nnumpy\nscikit-learn\n"
    )
    (project / ".runctl.toml").write_text("")
    name = f"digits-{os.getpid()}"
    first = f"{name}-0001"
    process = start(
        testbed,
        project,
        "runctl aws hyperparameter-tune --script tune_digits.py --hyperparameters "
        f"learning_rate:1e-7,0.01 --instances 2 --metric val_loss --name {name} -- --epochs 60",
    )
    wait_for(lambda: testbed.ledger.find_run(first), f"{first} to begin")
    testbed.wait_for_training(first, attempt=1, save=1)
    testbed.simulate_spot_interruption(first, attempt=1)
    code, output = finished(process)
    assert code == 0, output
    trials = services.trials.list_trials(name)
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 2, output
    assert results(services, name)["best"]["trial"] == 2
    assert len(testbed.attempts(first)) == 2
    # It continued from what it had saved: only epochs after that were repeated.
    lines = [line for number in (1, 2) for line in testbed.log(first, number)]
    epochs = [int(line.split()[1][:-1]) for line in lines if line.startswith("epoch ")]
    # Between the save and the line of an epoch it may have been ended.
    assert len(set(range(1, 61)) - set(epochs)) <= 1
    assert max(epochs) == 60
    assert len(epochs) < 120
