"""A run in a container, on a machine whose Docker engine uses systemd for its control groups."""

from __future__ import annotations

import pytest

from tests.docker_engine import needs_engine, serving_engine
from tests.machine.machines import Machine, MachineRun, Machines, only_in_test_machine

pytestmark = [only_in_test_machine, needs_engine, pytest.mark.e2e]

ASK = """
import socket

try:
    socket.create_connection(("169.254.169.254", 80), timeout=3).close()
    print("reached", flush=True)
except OSError:
    print("refused", flush=True)
"""
TRAINER = """
import os, signal, time
from pathlib import Path

folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
for saved in folder.glob("step-*.txt"):
    print("resumed from", saved.read_text(), flush=True)
while not asked and os.environ["RUNCTL_ATTEMPT"] == "1":
    time.sleep(0.1)
(folder / "step-7.txt").write_text("seven")
"""
DOCKERFILE = 'FROM python3\nCOPY . /\nCMD ["python3", "/train.py"]\n'


def send_image(machines: Machines) -> str:
    """Build the image and store it where a run finds it; return its URI."""
    bucket, key = machines.testbed.deployment.bucket, "code/images/machine.tar"
    with serving_engine() as engine:
        context, path = engine.folder / "context", engine.folder / "sent.tar"
        context.mkdir()
        (context / "Dockerfile").write_text(DOCKERFILE)
        (context / "ask.py").write_text(ASK)
        (context / "train.py").write_text(ASK + TRAINER)
        engine.import_base("python", "python3")
        engine.docker("build", "--tag", "sent:1", context)
        engine.docker("save", "--output", path, "sent:1")
        with path.open("rb") as body:
            machines.testbed.clients.get("s3").put_object(Bucket=bucket, Key=key, Body=body)
    return f"s3://{bucket}/{key}"


def container_of(machine: Machine) -> int:
    """Return the first process of the only container."""
    (name,) = machine.run("docker", "ps", "--quiet").splitlines()
    return int(machine.run("docker", "inspect", "--format={{.State.Pid}}", name))


def ask_outside_the_slice(machine: Machine) -> str:
    """Return what another container of the machine says about the metadata service."""
    (image,) = machine.run("docker", "images", "--quiet").splitlines()
    return machine.run("docker", "run", "--rm", "--network=host", image, "python3", "/ask.py")


def printed(run: MachineRun, attempt: int) -> list[str]:
    """Return what the trainer printed in an attempt, without the messages about its image."""
    words = ("refused", "reached", "resumed")
    return [line for line in run.testbed.log(run.run_id, attempt) if line.startswith(words)]


def test_a_container_is_fenced_by_systemds_group_and_resumes_on_another_machine(
    machines: Machines,
) -> None:
    run = machines.start_request({"docker": {"archive": send_image(machines)}})
    machine = run.wait_for_training()
    assert "/runctl-trainer.slice/" in machine.control_group(container_of(machine))
    assert ask_outside_the_slice(machine) == "reached"
    machine.testbed.simulate_spot_interruption(run.run_id, attempt=1, notice_seconds=15)
    assert run.wait_for_end() == "SUCCEEDED", machine.testbed.story(run.run_id)
    assert printed(run, 1) == ["refused"]
    assert printed(run, 2) == ["refused", "resumed from seven"]
