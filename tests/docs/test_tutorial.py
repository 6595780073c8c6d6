"""The programs of the tutorial do what it says, with and without runctl."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/tutorial/first-run.md").read_text()
PLAIN, WITH_HELPER = (
    program.replace("time.sleep(0.5)", "time.sleep(0)")
    for program in re.findall(r"```python title=\"train.py\"\n(.*?)```", PAGE, re.DOTALL)
)


def run(program: str, folder: Path) -> list[str]:
    """Run a program in a folder, as the agent would, and return the lines that it printed."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (folder / "train.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "RUNCTL_CHECKPOINT_DIR": str(checkpoints),
            "RUNCTL_METRICS_FILE": str(folder / "metrics.jsonl"),
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("program", [PLAIN, WITH_HELPER], ids=["plain", "with helper"])
def test_a_program_resumes_and_ends_with_the_total_of_the_page(program: str, tmp_path: Path):
    shortened = program.replace("while step < 60", "while step < 20")
    assert run(shortened, tmp_path)[0] == "step 1: total 1"
    resumed = run(program, tmp_path)
    assert resumed[:2] == ["resuming after step 20", "step 21: total 3311"]
    assert "step 60: total 73810" in resumed
    assert "The total is 73810 again" in PAGE


def test_the_lines_that_the_page_shows_are_printed(tmp_path: Path):
    printed = set(run(PLAIN, tmp_path))
    shown = set(re.findall(r"^(?:step \d+|done): .+$", PAGE, re.MULTILINE))
    assert len(shown) > 4
    assert shown <= printed
