"""A processing run in containers of a real engine: one for each call of the script."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runctl.model.docker_options import DockerOptions
from runctl.model.image import Image
from tests.agent.machine import Cloud, Machine, wait_until
from tests.agent.test_processing import COPY, Job
from tests.docker_engine import Engine, needs_engine, serving_engine

pytestmark = [needs_engine, pytest.mark.slow]

ARCHIVE = "s3://images/shards.tar.gz"
# The project is the folder that all calls share, and the test sees.
WAITS = (
    COPY
    + """
import signal, sys, time
saved = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"], "step")
attempt = os.environ["RUNCTL_ATTEMPT"]
def save(*_):
    saved.write_text("a save")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
call = f"{shard}-{attempt}-{len(list(pathlib.Path.cwd().glob(f'{shard}-{attempt}-*')))}"
began = saved.read_text() if saved.exists() else "the beginning"
pathlib.Path(call).write_text(f"{began} as {os.getuid()} of {os.environ['VERSION']}")
if shard == "0" and call.endswith("-0"):
    sys.exit(7)
while int(shard) >= 2 and attempt == "1" and not call.endswith("-1"):
    if pathlib.Path("open").exists():
        break
    time.sleep(0.02)
"""
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("python", "python")
        yield engine


@pytest.fixture
def begin(
    cloud: Cloud,
    launch: Callable[..., Machine],
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Machine]:
    """Begin an attempt of a job whose image the engine has."""
    monkeypatch.setenv("SCRATCH", "")
    (tmp_path / "Dockerfile").write_text("FROM python\nENV VERSION=one\nUSER 1234:2345\n")
    image = engine.docker("build", "--quiet", tmp_path).strip()

    def begin_attempt(number: int = 1) -> Machine:
        if number == 1:
            cloud.ledger.record_image("run-1", Image(reference="", digest=image, archive=ARCHIVE))
        cloud.open_attempt(number)
        cloud.give_token(number)
        return launch(number, variables={"DOCKER_HOST": engine.host})

    return begin_attempt


def create(cloud: Cloud, program: str, **options: Any) -> Job:
    request = {"docker": DockerOptions(archive=ARCHIVE)}
    return Job.create(cloud, program, request=request, **options)


def call(machine: Machine, name: str) -> str:
    """Wait for a call, and return what it said of itself."""
    path = machine.state / "project" / name
    wait_until(lambda: path.exists() and path.read_text(), why=machine.agent_log())
    return path.read_text()


def containers(engine: Engine) -> list[str]:
    return engine.docker("ps", "--all", "--quiet").split()


def kill_call(machine: Machine, name: str) -> None:
    """SIGKILL the program of a call that waits in its container."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-1:] == ["train.py"]:
            variables = process.environ()
            same = variables.get("RUNCTL_CHECKPOINT_DIR", "").startswith(str(machine.state))
            if same and variables["RUNCTL_SHARD"] == name:
                os.kill(process.pid, signal.SIGKILL)
                return
    raise LookupError(name)


def test_calls_fail_are_killed_and_interrupted_in_containers_of_their_own(
    cloud: Cloud, begin: Callable[..., Machine], engine: Engine
) -> None:
    job = create(cloud, WAITS, files=6, workers=2)
    machine = begin()
    assert call(machine, "2-1-0") == call(machine, "3-1-0") == "the beginning as 1234 of one"
    assert call(machine, "0-1-1"), "a script that exits with 7 is called again"
    wait_until(lambda: len(cloud.keys("runs/run-1/shards/done/")) == 2)
    assert len(containers(engine)) == 2, machine.agent_log()
    kill_call(machine, "2")
    assert call(machine, "2-1-1"), "a script that was killed is called again"
    assert call(machine, "4-1-0")
    machine.metadata.give_notice(30)
    assert cloud.outcome(120)["kind"] == "interrupted"
    assert len(cloud.keys("runs/run-1/shards/done/")) == 3
    assert containers(engine) == []
    assert not list((machine.root / "run/runctl").glob("container*"))
    cloud.tokens.reports.clear()
    second = begin(2)
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "completed", outcome
    job.check_result()
    assert call(second, "3-2-0") == call(second, "4-2-0") == "a save as 1234 of one"
    assert call(second, "5-2-0") == "the beginning as 1234 of one"
    assert [line["tries"] for line in job.index()] == [2, 1, 2, 1, 1, 1]


def test_an_agent_that_was_killed_leaves_no_container_of_its_calls(
    cloud: Cloud, begin: Callable[..., Machine], engine: Engine
) -> None:
    job = create(cloud, WAITS, files=4, workers=2)
    machine = begin()
    assert call(machine, "2-1-0")
    assert call(machine, "3-1-0")
    machine.kill_agent()
    assert len(containers(engine)) == 2
    for name in ("2-1-0", "3-1-0"):
        (machine.state / "project" / name).unlink()
    machine.start()
    assert call(machine, "2-1-0")
    assert call(machine, "3-1-0")
    (machine.state / "project/open").touch()
    outcome = cloud.outcome(120)
    assert outcome["kind"] == "completed", outcome
    job.check_result()
    assert "removed 2 containers that an earlier agent left" in machine.agent_log()
    assert containers(engine) == []
