"""Programs that use the helper, as separate processes."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runctl.agent.runtime.training_path import lay_out

FRAMEWORKS = Path(__file__).parents[2] / "build/frameworks/bin/python"


@dataclass
class Place:
    """The folders and variables that an agent provides to a trainer."""

    root: Path
    helper: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoint"

    @property
    def saved(self) -> Path:
        return self.root / "saved.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def request(self) -> Path:
        return self.root / "request"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "PYTHONPATH": str(self.helper),
            "PYTHONUNBUFFERED": "1",
            "RUNCTL_RUN_ID": "run-1",
            "RUNCTL_ATTEMPT": "3",
            "RUNCTL_RESUME_STEP": "",
            "RUNCTL_CHECKPOINT_DIR": str(self.checkpoints),
            "RUNCTL_SAVED_FILE": str(self.saved),
            "RUNCTL_METRICS_FILE": str(self.metrics),
            "RUNCTL_CHECKPOINT_REQUEST": str(self.request),
        }

    def start(
        self, program: str, *arguments: str, python: Path | str = sys.executable, **env: str
    ) -> subprocess.Popen[str]:
        """Start a program whose lines are read one by one."""
        script = self.root / f"program-{len(self.running)}.py"
        script.write_text(textwrap.dedent(program))
        process = subprocess.Popen(
            [str(python), str(script), *arguments],
            cwd=self.root,
            env={**self.environment(), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def run(self, program: str, *arguments: str, **options: str | Path) -> str:
        """Run a program, which must succeed, and return its output."""
        process = self.start(program, *arguments, **options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return out

    def end(self) -> None:
        """End every program with its descendants, which hold the same pipes."""
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def names(self) -> list[str]:
        """Return everything in the checkpoint folder and next to it that a save has created."""
        inside = [path.name for path in self.checkpoints.iterdir()]
        return sorted([*inside, *(path.name for path in self.root.glob(".checkpoint*"))])


def read_line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line of a program."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def read_until(process: subprocess.Popen[str], line: str) -> None:
    """Wait until a program has printed a line."""
    while (read := read_line(process)) != line:
        if not read and process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"it ended before {line!r}: {process.stderr.read()}")


@functools.cache
def undisturbed(program: str) -> str:
    """Return the final weights of an undisturbed program of a framework."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), lay_out(Path(folder) / "training-path"))
        assert place.run(program, python=framework_python()).splitlines()[-1] == "done 30"
        return (place.root / "outputs/weights").read_text()


def framework_python() -> Path:
    """Return the interpreter that has torch, Lightning and transformers."""
    if not FRAMEWORKS.exists():
        pytest.fail("the frameworks are not installed; `make build/frameworks/.installed` does it")
    return FRAMEWORKS
