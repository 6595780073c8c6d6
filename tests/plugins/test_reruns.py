"""Tests that fail are run a second time, which is printed and counted."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# Fails the first time that it runs, as a race does.
RACY = """
import pathlib, pytest

@pytest.mark.parametrize("number", range({count}))
def test_race(number):
    ran = pathlib.Path(__file__).with_name(f"ran-{{number}}")
    before = ran.exists()
    ran.touch()
    assert before

def test_steady():
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, without the options of the project."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def run_again(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run what failed, as `make test` does."""
    return run(folder, "-p", "tests.plugins.reruns", "--last-failed")


def test_what_passes_the_second_time_is_named(tmp_path: Path):
    (tmp_path / "test_race.py").write_text(RACY.format(count=2))
    assert run(tmp_path).returncode == 1
    second = run_again(tmp_path)
    assert second.returncode == 0, second.stdout
    assert "2 ran a second time" in second.stdout
    assert "RERUN passed test_race.py::test_race[0]" in second.stdout
    assert "test_steady" not in second.stdout


def test_what_fails_the_second_time_fails_the_run(tmp_path: Path):
    (tmp_path / "test_race.py").write_text("def test_broken():\n    raise AssertionError\n")
    assert run(tmp_path).returncode == 1
    second = run_again(tmp_path)
    assert second.returncode == 1
    assert "RERUN failed test_race.py::test_broken" in second.stdout


def test_more_than_a_few_are_not_run_again(tmp_path: Path):
    (tmp_path / "test_race.py").write_text(RACY.format(count=9))
    assert run(tmp_path).returncode == 1
    second = run_again(tmp_path)
    assert second.returncode == 1
    assert "9 tests failed; at most 8 are run a second time" in second.stdout
