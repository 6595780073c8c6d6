"""The nodes of the peers in bench/gang.py, processes of this machine; and what ranks record."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Step:
    """A step that a rank has completed; `gang` differs after every change of the gang."""

    at: float
    step: int
    world: int
    gang: tuple[str, int]


class Facts:
    """The files in which the ranks record what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, what: str) -> list[dict[str, Any]]:
        """Return the facts of one kind in the order of time."""
        found = []
        for path in self.folder.glob("*.jsonl"):
            lines = path.read_text().splitlines(keepends=True)
            found += [json.loads(line) for line in lines if line.endswith("\n")]
        return sorted((fact for fact in found if fact["what"] == what), key=lambda fact: fact["at"])

    def steps(self) -> list[Step]:
        """Return the steps of all ranks in the order of time."""
        return [
            Step(fact["at"], fact["step"], fact["world"], (fact["process"], fact["world"]))
            for fact in self.read("step")
        ]


class Node:
    """A node: the processes of one launcher on this machine."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self._log = number, folder / f"node-{number}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str | Path], variables: Mapping[str, str]) -> None:
        """Start the launcher."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                words,
                env={"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **os.environ, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def has_ended(self) -> bool:
        """Whether the launcher has ended."""
        return self.process is not None and self.process.poll() is not None

    def kill(self) -> None:
        """Kill every process at once, as the loss of a machine does."""
        if self.process is None:
            return
        try:
            launcher = psutil.Process(self.process.pid)
            family = [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def last_words(self) -> str:
        """Return the last line of the log that says something."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line.strip("=- ")), "")


def wait_until(check: Callable[[], bool], *, seconds: float) -> bool:
    """Poll until `check` holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not (held := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held
