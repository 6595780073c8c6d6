"""The checkpoint benchmark measures what it says it does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.checkpoint import OPERATIONS, main, tables

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
TOOLS = ("runctl", "plain parallel PUTs", "boto3")


def measured(*options: str, tools: Sequence[str]) -> list[dict[str, Any]]:
    chosen = [word for tool in tools for word in ("--tool", tool)]
    command = [sys.executable, "-m", "bench.checkpoint", "--json", "--rounds", "1", *chosen]
    done = subprocess.run(
        [*command, *options], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in rows)
    return rows


def test_every_tool_saves_saves_again_and_restores_what_it_saved() -> None:
    rows = measured("--mib", "16", "--files", "16", tools=TOOLS)
    assert {(row["data"], row["tool"], row["operation"]) for row in rows} == {
        (data, tool, operation)
        for data in ("one file of 16 MiB", "16 files, 16 MiB")
        for tool in TOOLS
        for operation in ("first save", "second save", "restore")
    }
    assert all(row["mib_per_s"] > 0 for row in rows)


def test_small_files_are_compared_with_one_tar_of_them() -> None:
    tools = ("runctl", "one tar of them")
    rows = measured("--files", "50", "--file-bytes", "200", tools=tools)
    assert {(row["data"], row["tool"], row["operation"]) for row in rows} == {
        ("50 files of 200 bytes", tool, operation)
        for tool in tools
        for operation in ("first save", "second save", "restore")
    }


def test_unknown_tool_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["checkpoint.py", "--tool", "runktl"])
    with pytest.raises(SystemExit):
        main()
    assert "--tool: 'runktl' is not one of runctl" in capsys.readouterr().err


def test_table_of_a_single_tool_needs_no_figures_of_runctl() -> None:
    row = {"data": "d", "tool": "boto3", "seconds": 1.5, "mib_per_s": 2.0, "peak_mib": 3.0}
    shown = list(tables([{**row, "operation": operation} for operation in OPERATIONS]))
    assert sum(line.startswith("boto3") for line in shown) == len(OPERATIONS)
