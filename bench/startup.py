"""The start-up time of the command line, compared with `import typer` and the AWS CLI.

Each figure is the median over fresh processes, taken in turn with the others', so that all of them
see the same machine. The aim of `runctl --help` is at most twice `import typer`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def measure(runs: int) -> list[dict[str, float | str]]:
    """Return a row for each command: median milliseconds, and its ratio to the baseline."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for words in COMMANDS.values():
            milliseconds(words, folder)  # the byte code is on disk from here on
        for _ in range(runs):
            for name, words in COMMANDS.items():
                times[name].append(milliseconds(words, folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {"command": name, "ms": round(value, 1), "ratio": round(value / medians[BASELINE], 2)}
        for name, value in medians.items()
    ]


def main() -> None:
    """Print the table, or with --json the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.runs)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print(f"{row['command']:<28} {row['ms']:>8} ms   {row['ratio']:>5} ×")


if __name__ == "__main__":
    main()
