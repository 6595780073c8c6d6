"""The cost of importing each handler, against importing only boto3 and the Powertools Logger.

A function's cold start consists of its imports. Each figure is the median over fresh interpreters,
taken in turn with the baseline's, so that both see the same machine.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from bench import medians

PROJECT = Path(__file__).parents[1]
BASELINE = "boto3, aws_lambda_powertools.Logger"
CLOCK = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1000)"
BASELINE_CODE = "import boto3; from aws_lambda_powertools import Logger"
# Powertools reads these when a Logger or Metrics is created, as in the functions.
ENVIRONMENT = {"POWERTOOLS_SERVICE_NAME": "bench", "POWERTOOLS_METRICS_NAMESPACE": "runctl"}


def import_milliseconds(code: str) -> float:
    """Return how long `code` takes in a fresh interpreter, not counting its start-up."""
    done = subprocess.run(
        [sys.executable, "-c", CLOCK.format(code)],
        cwd=PROJECT,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def measure(runs: int) -> list[tuple[str, float, float]]:
    """Return a row for the baseline and for each handler: name, median milliseconds and ratio."""
    handlers = sorted(
        path.stem
        for path in (PROJECT / "lambdas").glob("*.py")
        if "def handler" in path.read_text()
    )
    codes = {BASELINE: BASELINE_CODE} | {name: f"import lambdas.{name}" for name in handlers}
    timers = {name: partial(import_milliseconds, code) for name, code in codes.items()}
    return medians.compare(timers, baseline=BASELINE, runs=runs)


if __name__ == "__main__":
    medians.run(measure, description=__doc__, runs=7, column="import", width=40)
