"""Runs on real machines: how tests start them, and what they do on the machines.

A test takes the fixture `machines` and starts a run. Its instances are machines that systemd booted
from Debian packages, with real user data, units, control groups, users and packet filters:

    def test_the_trainer_cannot_read_the_shadow_file(machines: Machines) -> None:
        run = machines.start(ATTACK)         # a program, or none: one that waits behind a gate
        run.wait_for_training(step=1)
        machine = run.machine(attempt=1)
        assert machine.run("systemctl", "is-active", "runctl-agent") == "active"
        tried = machine.as_trainer("cat /etc/shadow")      # a shell script, confined as the trainer
        assert tried.returncode != 0
        assert "refused" in machine.journal("runctl-agent")[-1]
        run.finish()

The fixture `machine` is one that all tests of a file share, with a run that trains meanwhile: for
tests that leave it training, as a reboot does. A boot and a run's start take some 10 s of a busy
processor, so prefer it. A file in the machine is read by `read`, written by `write`; the root of a
machine that has ended is `overlay`, with what was written in it, and its journal is still there.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.gated import GatedRun
from tests.e2e.testbed import Testbed, wait_for
from tests.machine import entering
from tests.machine.control_groups import leader_of

# Something in a machine that hangs fails the test instead of the whole run of tests.
_SECONDS = 60
_SLICE = "runctl-trainer.slice"
# The whole of `make test` has few minutes for machines.
only_in_test_machine = pytest.mark.skipif(
    not os.environ.get("RUNCTL_ALL_MACHINES"), reason="it takes long: make test-machine"
)
FIRST_PROCESS = Path(__file__).with_name("first_process.py")


@dataclass(frozen=True)
class Machine:
    """The machine of an instance."""

    testbed: Testbed
    instance_id: str

    @property
    def overlay(self) -> Path:
        """What was written in the machine, also when that has ended."""
        root = Path(self.testbed.cloud.instance(self.instance_id)["root"])
        return root.with_name(f"{root.name}.machine") / "upper"

    @property
    def is_on(self) -> bool:
        """Whether its first process runs."""
        return leader_of(self.instance_id) is not None

    @property
    def leader(self) -> int:
        """The machine's first process, as this system numbers it."""
        leader = leader_of(self.instance_id)
        assert leader is not None, f"{self.instance_id} is off"
        return leader

    def attempt(
        self, *words: str, user: str = "", in_slice: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a unit of the machine, whatever comes of it."""
        return subprocess.run(
            entering.command(self.leader, entering.unit(words, user=user, in_slice=in_slice)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )

    def run(self, *words: str, user: str = "", in_slice: str = "") -> str:
        """Run a program in a unit of the machine and return what it prints, without the end."""
        done = self.attempt(*words, user=user, in_slice=in_slice)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    @property
    def trainer_user(self) -> str:
        """The user as whom trainers run; root if they have none of their own."""
        settings = dict(
            line.split("=", 1) for line in self.read("/etc/runctl/agent.env").splitlines()
        )
        return settings.get("RUNCTL_TRAINER_USER") or "root"

    def as_trainer(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script as the trainer's user, below the trainer's control group."""
        return self.attempt("sh", "-c", script, user=self.trainer_user, in_slice=_SLICE)

    def inside(self, path: str) -> Path:
        """Return where this system sees a path of the running machine."""
        return Path(f"/proc/{self.leader}/root", path.lstrip("/"))

    def read(self, path: str) -> str:
        """Read a file of the running machine."""
        return self.inside(path).read_text()

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the running machine, as its root."""
        target = self.inside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def processes(self, word: str) -> list[int]:
        """List the processes of the machine, as it numbers them, with a word in their commands."""
        done = self.attempt("pgrep", "--full", "--", word)
        return [int(line) for line in done.stdout.split()]

    def control_group(self, pid: int) -> str:
        """Return the control group of a process, which the machine numbers."""
        lines = self.run("cat", f"/proc/{pid}/cgroup").splitlines()
        return next(line for line in lines if line.startswith("0::")).removeprefix("0::")

    def journal(self, unit: str = "") -> list[str]:
        """Return the lines of the journal, of all boots, also when the machine has ended."""
        words = ["journalctl", "--directory", str(self.overlay / "var/log/journal")]
        words += ["--output=short-unix", "--no-pager", "--quiet"]
        words += [f"--unit={unit}"] if unit else []
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def reboot_at_once(self) -> None:
        """Reboot it as after a panic: no unit is stopped; wait until the agent runs again."""
        before = self.leader
        subprocess.run(
            entering.command(before, ["systemctl", "reboot", "--force", "--force"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
        wait_for(
            lambda: leader_of(self.instance_id) not in {None, before}, f"{self.instance_id} to boot"
        )
        wait_for(self._has_agent, f"the agent of {self.instance_id}")

    def _has_agent(self) -> bool:
        # While systemd starts it answers nobody.
        return self.attempt("systemctl", "is-active", "runctl-agent").stdout.strip() == "active"


@dataclass
class MachineRun(GatedRun):
    """A run on machines; without a program of its own, it trains until its gate is opened."""

    def machine(self, attempt: int) -> Machine:
        """Return the machine of an attempt, which has been launched."""
        return Machine(self.testbed, self.testbed.wait_for_launch(self.run_id, attempt=attempt))

    def wait_for_training(self, *, attempt: int = 1, step: int | None = None) -> Machine:
        """Wait until an attempt trains and the run has committed a step; return its machine."""
        self.testbed.wait_for_training(self.run_id, attempt=attempt, step=step)
        return self.machine(attempt)

    def wait_for_end(self) -> str:
        """Wait until the run has ended and return the status of its execution."""
        return self.testbed.wait_for_training_completion(self.run_id).status

    def open_gate(self) -> None:
        """Let the trainer of the newest attempt reach its end."""
        self.machine(self.testbed.attempts(self.run_id)[-1].number).write(str(self.gate), "")


@dataclass(frozen=True)
class Machines:
    """Starts runs whose instances are machines."""

    testbed: Testbed
    started: list[str] = field(default_factory=list)

    def start(
        self, program: str = "", *, files: dict[str, str | Path] | None = None, **request: Any
    ) -> MachineRun:
        """Start a run: of a program, or of a trainer that waits behind a gate.

        `files` are those of its project besides the program.
        """
        if program:
            code = self.testbed.upload_project({"train.py": program, **(files or {})})
            return self.start_request({"code": code, "script": "train.py", **request})
        run = self._new_run()
        run.start(**request)
        return run

    def start_request(self, request: dict[str, Any]) -> MachineRun:
        """Start a run of any kind."""
        run = self._new_run()
        self.testbed.start(request, name=run.run_id)
        return run

    def end(self) -> None:
        """End what still runs, so that nothing is launched in the tests of other files."""
        for run_id in self.started:
            found = self.testbed.execution(run_id)
            if found.is_running:
                self.testbed.workflow.stop_run(found.arn, cause="the tests have ended")
        self.testbed.cloud.reset()

    @staticmethod
    def new_name() -> str:
        """Return a name that nothing else has."""
        return f"machine-{uuid.uuid4().hex[:12]}"

    def _new_run(self) -> MachineRun:
        run_id = self.new_name()
        self.started.append(run_id)
        return MachineRun(self.testbed, run_id, Path("/var/tmp", run_id))
