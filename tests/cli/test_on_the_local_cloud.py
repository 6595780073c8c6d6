"""A user's sequence of commands on a real local cloud with the real stacks."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "runctl.cli.main", "--local"]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


class Session:
    """Runs commands in a project as a user would."""

    def __init__(self, project: Path) -> None:
        self._project = project

    def __call__(self, *words: str, code: int = 0) -> dict:
        done = subprocess.run(
            [*PROGRAM, "--json", *words],
            check=False,
            cwd=self._project,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def wait_for(self, matches, *words: str, seconds: float = 120) -> dict:
        deadline = time.monotonic() + seconds
        while True:
            document = self(*words)
            if matches(document):
                return document
            assert time.monotonic() < deadline, document
            time.sleep(2)  # each command is a process, whose start takes 0.8 s of computing


@pytest.fixture
def session(project):
    shutil.copy(CHECKOUT / "examples/training/train_with_checkpoints.py", project)
    session = Session(project)
    session("local", "up")
    yield session
    session("local", "down")


def reached(step: int, attempt: int):
    def check(run: dict) -> bool:
        last = run["attempts"][-1] if run.get("attempts") else {}
        return last.get("number") == attempt and (last.get("step") or 0) >= step

    return check


def test_start_interrupt_stop_resume_and_inspect(session):
    started = session(
        "aws", "train", "--detach", "--name", "mine", "--instance-types", "m5.large",
        "train_with_checkpoints.py", "--steps", "100000", "--every", "5", "--megabytes", "1",
        "--step-seconds", "0.2",
    )  # fmt: skip
    assert started["run_id"] == "mine"
    session.wait_for(lambda document: document["runs"], "list")
    session.wait_for(reached(10, attempt=1), "status", "mine")
    failing = session("local", "fail-check", "mine", "--check", "instance")
    planned = session("local", "maintain", "mine", "--code", "system-reboot")
    known = session.wait_for(
        lambda run: "system-reboot" in run["attempts"][0]["warning"], "status", "mine"
    )
    assert known["status"] == "running"
    taken = session("local", "interrupt", "mine", "--notice-seconds", "6", "--reservation")
    assert taken["instance_id"] == failing["instance_id"] == planned["instance_id"]
    assert taken["attempt"] == 1
    session.wait_for(lambda run: reached(1, 2)(run) and run["interruptions"] == 1, "status", "mine")

    stopped = session("stop", "mine")
    assert stopped["status"] == "stopped"
    assert session("local", "status")["instances"] == []
    checkpoints = session("checkpoints", "mine")["checkpoints"]
    assert [checkpoint["is_newest"] for checkpoint in checkpoints].count(True) == 1

    assert session("resume", "mine", "--detach")["execution"] == "mine-r2"
    resumed = session.wait_for(reached(1, attempt=3), "status", "mine")
    assert resumed["attempts"][2]["resume_step"] == stopped["step"]
    said = [line["text"] for line in session("logs", "mine", "--attempt", "3")["lines"]]
    assert any(text.startswith("at step ") and text != "at step 0" for text in said)
    assert session("stop", "mine")["status"] == "stopped"
    assert session("resume", "nobody", code=4)["error"]["type"] == "NotFoundError"
