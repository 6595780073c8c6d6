"""A gang of nodes with real torchrun and Gloo, which a test steers and whose nodes it loses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runctl.local.core.interpreter import base_python
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt
from tests.e2e.testbed import PROJECT, Testbed, wait_for

TRAINER = Path(__file__).with_name("gang_trainer.py")
LAST, EVERY = 30, 5


def site_packages() -> Path:
    """Return the folder with torch, which instances can see."""
    for folder in (PROJECT / "build/frameworks").resolve().glob("lib/python3*/site-packages"):
        return folder
    pytest.fail("the frameworks are not installed; `make build/frameworks/.installed` does it")


def steering(control: Path, checkpoints: str) -> dict[str, str]:
    """Return the variables of the trainer, which also find torch for it and for its launcher."""
    return {
        "CONTROL": str(control),
        "LAST": str(LAST),
        "EVERY": str(EVERY),
        "FORMAT": checkpoints,
        "PYTHONPATH": str(site_packages()),
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def uninterrupted(folder: Path, ranks: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run the same training on this machine, without runctl; yield what waits for its result."""
    for name in ("control", "checkpoints", "outputs"):
        (folder / name).mkdir(parents=True)
    (folder / "control/limit").write_text(str(LAST))
    env = steering(folder / "control", "file") | {
        "PATH": os.environ["PATH"],
        "RUNCTL_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "RUNCTL_OUTPUT_DIR": str(folder / "outputs"),
    }
    env["PYTHONPATH"] += f":{PROJECT}"
    torchrun = (base_python(), "-m", "torch.distributed.run", "--standalone")
    process = subprocess.Popen([*torchrun, f"--nproc-per-node={ranks}", str(TRAINER)], env=env)

    def result() -> dict[str, Any]:
        assert process.wait(timeout=240) == 0
        found: dict[str, Any] = json.loads((folder / "outputs/result.json").read_text())
        return found

    try:
        yield result
    finally:
        process.kill()
        process.wait()


@dataclass
class GangRun:
    """A run of several nodes, by its id; `control` is the folder from which it is steered."""

    testbed: Testbed
    run_id: str
    control: Path

    def start(self, *, checkpoints: str, **request: Any) -> None:
        """Start it; its ranks join each other, and take no step yet."""
        self.testbed.start(
            {
                "code": self.testbed.upload_project({"train.py": TRAINER}),
                "script": "train.py",
                "env": steering(self.control, checkpoints),
                **request,
            },
            name=self.run_id,
        )

    def go_to(self, step: int) -> None:
        """Let the ranks take steps up to this one."""
        new = self.control / "limit.new"
        new.write_text(str(step))
        new.rename(self.control / "limit")

    def hold(self, what: str, *, rank: int) -> None:
        """Hold a rank from now on before it joins the others, or in the middle of a save."""
        (self.control / f"{what}-{rank}").touch()

    def release(self, what: str, *, rank: int) -> None:
        """Let a rank go on."""
        (self.control / f"{what}-{rank}").unlink()

    def wait_for(self, what: str, *, attempt: int, ranks: int) -> None:
        """Wait until all ranks of an attempt have said where they are."""
        for rank in range(ranks):
            path = self._path(what, attempt, rank)
            self._wait(path.exists, f"{what} of rank {rank} in attempt {attempt}")

    def wait_for_step(self, step: int, *, attempt: int) -> None:
        """Let the ranks of an attempt go to a step, and wait until they have saved there."""
        self.go_to(step)
        self.testbed.wait_for_training(self.run_id, attempt=attempt, step=step - step % EVERY)

    def wait_for_log(self, attempt: int, text: str) -> None:
        """Wait until the agent of the first rank has logged a text."""

        def is_logged() -> bool:
            return any(text in line for line in self.testbed.agent_log(self.run_id, attempt))

        self._wait(is_logged, f"{text!r} in the log of attempt {attempt}")

    def instance(self, attempt: int, rank: int) -> str:
        """Return the instance that has a rank in an attempt."""
        return self._attempt(attempt).nodes[rank].instance_id

    def lose(self, *ranks: int, attempt: int, notice: bool = False) -> None:
        """Let EC2 reclaim nodes of an attempt at once."""
        for instance_id in [self.instance(attempt, rank) for rank in ranks]:
            self.testbed.cloud.interrupt(instance_id, notice=notice, notice_seconds=60)

    def stop_process(self, *, attempt: int, rank: int) -> None:
        """Let a rank hang."""
        os.kill(int(self._path("process", attempt, rank).read_text()), signal.SIGSTOP)

    def wait_for_end_of(self, attempt: int) -> Outcome:
        """Wait until an attempt has ended, and return how."""

        def ended() -> Outcome | None:
            return self._attempt(attempt).ended

        found: Outcome = self._wait(ended, f"the end of attempt {attempt}")
        return found

    def finish(self) -> list[Attempt]:
        """Let the run go to its end, and check what holds for any of them; return its attempts."""
        self.go_to(LAST)
        ended = self.testbed.wait_for_training_completion(self.run_id)
        assert ended.status == "SUCCEEDED", self.testbed.story(self.run_id)
        return self.testbed.attempts(self.run_id)

    def _attempt(self, number: int) -> Attempt:
        self.testbed.wait_for_launch(self.run_id, attempt=number)
        return self.testbed.attempts(self.run_id)[number - 1]

    def _path(self, what: str, attempt: int, rank: int) -> Path:
        return self.control / f"{what}-{attempt}-{rank}"

    def _wait(self, check: Callable[[], Any], what: str) -> Any:
        def check_while_it_runs() -> Any:
            found = check()
            if not found and not self.testbed.execution(self.run_id).is_running:
                raise TimeoutError(f"{self.run_id} ended before {what}")
            return found

        try:
            found = wait_for(check_while_it_runs, what, timeout=timedelta(seconds=120))
            print(f"{datetime.now(timezone.utc):%H:%M:%S} {what}")  # for the story of a failure
            return found
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}: {self.testbed.story(self.run_id)}") from exc
