"""The start-up time of the command line, compared with `import typer` and the AWS CLI.

Each figure is the median over fresh processes, taken in turn, so that all of them see the same
machine. The target for `runctl --help` is at most twice `import typer`.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bench import medians

BIN = Path(sys.executable).parent
BASELINE = "python -c 'import typer'"
COMMANDS: Mapping[str, Sequence[str]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    BASELINE: (sys.executable, "-c", "import typer"),
    "runctl --version": (str(BIN / "runctl"), "--version"),
    "runctl --help": (str(BIN / "runctl"), "--help"),
    "runctl aws train --help": (str(BIN / "runctl"), "aws", "train", "--help"),
    "aws --version": (str(BIN / "aws"), "--version"),
}


def milliseconds(words: Sequence[str], folder: str) -> float:
    """Return how long a process takes from its start to its end."""
    began = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000


def measure(runs: int) -> list[tuple[str, float, float]]:
    """Return a row for each command: name, median milliseconds, and ratio to the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        timers = {name: partial(milliseconds, words, folder) for name, words in COMMANDS.items()}
        return medians.compare(timers, baseline=BASELINE, runs=runs)


if __name__ == "__main__":
    medians.run(measure, description=__doc__, runs=15, column="command", width=28)
