"""A run whose trainer continues until its gate is opened, and then always ends the same way."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runctl.fault_points import HOLD
from runctl.local.guest.processes import descendants
from runctl.model.outcome import RunStatus
from runctl.model.run import Attempt
from tests.e2e.books import check_machines
from tests.e2e.testbed import Testbed, wait_for

LAST, EVERY = 40, 5
# Instances share this machine, so a lock reveals a second trainer of the same run.
PROGRAM = """
import fcntl, hashlib, os, pathlib, sys, time
from runctl import training

gate = pathlib.Path(os.environ["GATE"])
alone = gate.with_suffix(".lock").open("w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("another trainer is at work")
weights, step = b"", 0
if found := training.restore():
    weights, step = found.path.read_bytes(), found.step
print("from", step, flush=True)
last = int(os.environ["LAST"])

def save():
    training.save(lambda path: path.write_bytes(weights), step, keep=2)

while step < last and not training.should_stop():
    if not gate.exists():
        time.sleep(0.05)
        if step == last - 1:
            continue
    step += 1
    weights = hashlib.sha512(weights + bytes([step])).digest() * 512
    if step % int(os.environ["EVERY"]) == 0:
        save()
if training.should_stop():
    save()
else:
    (training.output_dir / "weights.bin").write_bytes(weights)
"""


def undisturbed() -> bytes:
    """Return the weights that the trainer ends with if it is not interrupted."""
    weights = b""
    for step in range(1, LAST + 1):
        weights = hashlib.sha512(weights + bytes([step])).digest() * 512
    return weights


@dataclass
class GatedRun:
    """A gated run, by its id."""

    testbed: Testbed
    run_id: str
    gate: Path

    def start(self, **request: Any) -> None:
        """Start it with its gate closed."""
        code = self.testbed.upload_project({"train.py": PROGRAM})
        env = {"GATE": str(self.gate), "LAST": str(LAST), "EVERY": str(EVERY)}
        self.testbed.start(
            {"code": code, "script": "train.py", "env": env, **request}, name=self.run_id
        )

    def hold_next(self, point: str, how: str = HOLD) -> None:
        """Make the agents of instances that boot from now on stop, or hang, at a fault point."""
        self.testbed.cloud.set_knobs(environment={how: point} if point else {})

    def wait_until_held(self, attempt: int) -> tuple[str, int]:
        """Wait until an attempt's agent has stopped; return instance and process."""
        instance_id = self.testbed.wait_for_launch(self.run_id, attempt=attempt)
        pid = wait_for(lambda: self._stopped(instance_id), f"attempt {attempt} to be held")
        self.hold_next("")
        return instance_id, pid

    def _stopped(self, instance_id: str) -> int | None:
        supervisor = self.testbed.cloud.instance(instance_id)["supervisor_pid"]
        family = descendants(supervisor) if supervisor else []
        return next((pid for pid in family if _state(pid) == "T"), None)

    def go_on(self, pid: int) -> None:
        """Let a held agent continue."""
        os.kill(pid, signal.SIGCONT)

    def open_gate(self) -> None:
        """Let the trainer reach its end."""
        self.gate.touch()

    def finish(self) -> list[Attempt]:
        """Open the gate, wait for the end, check what holds for any run; return its attempts."""
        self.open_gate()
        testbed, run_id = self.testbed, self.run_id
        ended = testbed.wait_for_training_completion(run_id)
        assert ended.status == "SUCCEEDED", testbed.story(run_id)
        assert testbed.output(run_id, "weights.bin") == undisturbed(), testbed.story(run_id)
        run, attempts = testbed.run(run_id), testbed.attempts(run_id)
        assert run.ended is RunStatus.COMPLETED
        assert run.fence == attempts[-1].number == len(attempts)
        assert all(attempt.ended is not None for attempt in attempts), testbed.story(run_id)
        resumed = [
            attempt.resume_step or 0 for attempt in attempts if "started" in attempt.timeline
        ]
        assert resumed == sorted(resumed)
        testbed.verify_checkpoint_exists(run_id)
        check_machines(testbed, run_id)
        return attempts


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
