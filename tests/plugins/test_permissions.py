"""Permissions that nobody uses are found, once all end-to-end tests have run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.plugins import permissions
from tests.plugins.permissions import STORIES, Explanation, UnusedPermissions, problems

PROJECT = Path(__file__).parents[2]
USED = ("reconcile", "ec2:DescribeInstances")
UNUSED = ("reconcile", "ec2:DeleteVpc")
EXPLAINED = Explanation(roles=("reconcile",), actions=("ec2:Delete*",), reason="a reason")


def test_what_is_held_is_used_or_explained():
    assert problems([USED], [USED], []) == []
    (found,) = problems([USED, UNUSED], [USED], [])
    assert "reconcile: ec2:DeleteVpc is held, but no end-to-end test uses it" in found
    assert problems([USED, UNUSED], [USED], [EXPLAINED]) == []
    assert problems([USED, UNUSED], [USED, UNUSED], [EXPLAINED]) == []


def test_an_explanation_of_something_that_nobody_holds_is_reported():
    (found,) = problems([USED], [USED], [EXPLAINED])
    assert "no role holds this any more" in found


def test_every_explanation_has_a_reason(tmp_path):
    assert permissions.read_explanations()
    path = tmp_path / "x.toml"
    path.write_text('[[unused]]\nroles = ["*"]\nactions = ["s3:*"]\nreason = " "\n')
    with pytest.raises(ValueError, match="has no reason"):
        permissions.read_explanations(path)


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.setenv(permissions.MODE, "fail")
    monkeypatch.setenv(permissions.FOLDER, "")
    options = SimpleNamespace(keyword="", markexpr="", lf=False, deselect=None)
    plugin = UnusedPermissions(SimpleNamespace(option=options, args=["tests"]))
    for number, used in enumerate(([USED], [])):  # two workers, with a cloud each
        document = {"granted": [USED, UNUSED], "used": used}
        (plugin.folder / f"{number}.json").write_text(json.dumps(document))
    monkeypatch.setattr(permissions, "read_explanations", list)
    return plugin


def report(path: Path, **given: object) -> SimpleNamespace:
    fields = {"failed": False, "skipped": False, "passed": True, "when": "call"} | given
    return SimpleNamespace(nodeid=f"tests/{path.parent.name}/{path.name}::test_x", **fields)


def end(plugin: UnusedPermissions, status: int = 0) -> int:
    session = SimpleNamespace(exitstatus=status)
    plugin.pytest_sessionfinish(session, exitstatus=status)
    return int(session.exitstatus)


def run_all(plugin: UnusedPermissions) -> None:
    for path in STORIES.glob("test_*.py"):
        plugin.pytest_runtest_logreport(report(path))


def test_a_whole_run_fails_by_an_unused_permission(plugin):
    run_all(plugin)
    assert end(plugin) == 1
    assert [line.split(" is held")[0] for line in plugin.found] == ["reconcile: ec2:DeleteVpc"]
    assert not plugin.folder.exists()


PARTS = ["a file did not run", "failed", "skipped", "keyword", "lf", "deselect", "one test"]


@pytest.mark.parametrize("why", PARTS)
def test_a_part_of_the_tests_proves_nothing(plugin, why):
    first, *others = sorted(STORIES.glob("test_*.py"))
    for path in others if why == "a file did not run" else [first, *others]:
        plugin.pytest_runtest_logreport(report(path))
    if why in {"failed", "skipped"}:
        plugin.pytest_runtest_logreport(report(first, passed=False, **{why: True}))
    elif why in {"keyword", "lf", "deselect"}:
        setattr(plugin.config.option, why, "reconcile")
    elif why == "one test":
        plugin.config.args = [f"{STORIES}/test_sweep.py::test_x", str(STORIES)]
    assert end(plugin) == 0
    assert plugin.found is None


def test_a_session_that_was_interrupted_keeps_its_own_status(plugin):
    run_all(plugin)
    assert end(plugin, status=2) == 2
    assert plugin.found is None


CONFTEST = """
import json, os
from pathlib import Path
import pytest
from tests.plugins import permissions

permissions.STORIES = Path(__file__).parent / "e2e"
permissions.read_explanations = list

def pytest_configure(config):
    permissions.install(config)

@pytest.fixture(scope="session", autouse=True)
def cloud(worker_id):
    # Each worker has a cloud, in which the other one's permission is not used.
    yield
    document = {"granted": [["r", "gw0"], ["r", "gw1"], *GRANTED], "used": [["r", worker_id]]}
    (Path(os.environ[permissions.FOLDER]) / f"{worker_id}.json").write_text(json.dumps(document))
"""
STORY = """
import pathlib

def test_story():
    ran = pathlib.Path(__file__).with_suffix(".ran")
    before = ran.exists()
    ran.touch()
    assert before or not RACY
"""


def run_stories(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run two stories as `make test` runs all, without the options of the project."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != permissions.FOLDER and not name.startswith("PYTEST_")
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *options],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(PROJECT), permissions.MODE: "fail"},
        capture_output=True,
        text=True,
        check=False,
    )


def write_stories(folder: Path, *, granted: list[list[str]], racy: bool) -> None:
    (folder / "conftest.py").write_text(CONFTEST.replace("GRANTED", repr(granted)))
    (folder / "e2e").mkdir()
    for name, races in (("a", False), ("b", racy)):
        text = STORY.replace("RACY", str(races))
        (folder / "e2e" / f"test_{name}.py").write_text(text)


def test_what_no_worker_used_fails_the_run_and_a_rerun_does_not_hide_it(tmp_path: Path):
    write_stories(tmp_path, granted=[["r", "ec2:DeleteVpc"]], racy=False)
    first = run_stories(tmp_path, "-n", "2")
    assert first.returncode == 1, first.stdout
    assert "r: ec2:DeleteVpc is held, but no end-to-end test uses it" in first.stdout
    assert "gw" not in first.stdout.partition("permissions that no test uses")[2]
    again = ("-p", "tests.plugins.reruns", "--last-failed", "--last-failed-no-failures", "none")
    assert run_stories(tmp_path, *again).returncode != 0


def test_what_one_of_the_workers_used_is_used(tmp_path: Path):
    write_stories(tmp_path, granted=[], racy=False)
    done = run_stories(tmp_path, "-n", "2")
    assert done.returncode == 0, done.stdout


def test_after_a_failure_that_a_rerun_mends_nothing_is_compared(tmp_path: Path):
    write_stories(tmp_path, granted=[["r", "ec2:DeleteVpc"]], racy=True)
    first = run_stories(tmp_path, "-n", "2")
    assert first.returncode == 1
    second = run_stories(tmp_path, "-p", "tests.plugins.reruns", "--last-failed")
    assert second.returncode == 0, second.stdout
    assert "no test uses" not in first.stdout + second.stdout


def test_without_the_mode_the_run_passes_and_what_was_found_is_printed(plugin, monkeypatch):
    monkeypatch.delenv(permissions.MODE)
    run_all(plugin)
    assert end(plugin) == 0
    lines: list[str] = []
    reporter = SimpleNamespace(section=lines.append, line=lines.append)
    plugin.pytest_terminal_summary(reporter)
    assert any("ec2:DeleteVpc" in line for line in lines)
