"""The checkpoint benchmark measures what it says it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
TOOLS = ("runctl", "plain parallel PUTs", "boto3")


def test_every_tool_saves_saves_again_and_restores_what_it_saved() -> None:
    chosen = [word for tool in TOOLS for word in ("--tool", tool)]
    command = [sys.executable, "-m", "bench.checkpoint", "--json", "--rounds", "1", *chosen]
    done = subprocess.run(
        [*command, "--mib", "16", "--files", "16"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {(row["data"], row["tool"], row["operation"]) for row in rows} == {
        (data, tool, operation)
        for data in ("one file of 16 MiB", "16 files, 16 MiB")
        for tool in TOOLS
        for operation in ("first save", "second save", "restore")
    }
    assert all(row["mib_per_s"] > 0 and row["peak_mib"] > 0 for row in rows)
