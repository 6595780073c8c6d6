"""What importing each handler costs, against importing boto3 and the Powertools Logger alone.

A function's cold start is its imports. Each figure is the median over fresh interpreters, taken in
turn with the baseline's, so that both see the same machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BASELINE = "boto3, aws_lambda_powertools.Logger"
CLOCK = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1000)"
BASELINE_CODE = "import boto3; from aws_lambda_powertools import Logger"
# Powertools reads these when a Logger or Metrics is made, as in the functions.
ENVIRONMENT = {"POWERTOOLS_SERVICE_NAME": "bench", "POWERTOOLS_METRICS_NAMESPACE": "runctl"}


def import_milliseconds(code: str) -> float:
    """Return how long `code` takes in a fresh interpreter, start-up not counted."""
    done = subprocess.run(
        [sys.executable, "-c", CLOCK.format(code)],
        cwd=PROJECT,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def measure(runs: int) -> list[dict[str, float | str]]:
    """Return a row for the baseline and for each handler: median milliseconds and ratio."""
    handlers = sorted(
        path.stem
        for path in (PROJECT / "lambdas").glob("*.py")
        if "def handler" in path.read_text()
    )
    codes = {BASELINE: BASELINE_CODE} | {name: f"import lambdas.{name}" for name in handlers}
    for code in codes.values():
        import_milliseconds(code)  # the byte code is on disk from here on
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(runs):
        for name, code in codes.items():
            times[name].append(import_milliseconds(code))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {"import": name, "ms": round(value, 1), "ratio": round(value / medians[BASELINE], 2)}
        for name, value in medians.items()
    ]


def main() -> None:
    """Print the table, or with --json the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.runs)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print(f"{row['import']:<40} {row['ms']:>8} ms   {row['ratio']:>5} ×")


if __name__ == "__main__":
    main()
