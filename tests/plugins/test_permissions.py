"""Permissions that nobody uses are found, once all end-to-end tests have run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.plugins import permissions
from tests.plugins.permissions import STORIES, Explanation, UnusedPermissions, problems

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
    options = SimpleNamespace(keyword="", markexpr="", lf=False)
    plugin = UnusedPermissions(SimpleNamespace(option=options))
    for number, used in enumerate(([USED], [])):  # two workers, with a cloud each
        document = {"granted": [USED, UNUSED], "used": used}
        (plugin.folder / f"{number}.json").write_text(json.dumps(document))
    monkeypatch.setattr(permissions, "read_explanations", list)
    return plugin


def report(path: Path, **given: object) -> SimpleNamespace:
    fields = {"failed": False, "skipped": False, "passed": True, "when": "call"} | given
    return SimpleNamespace(nodeid=f"tests/{path.parent.name}/{path.name}::test_x", **fields)


def end(plugin: UnusedPermissions) -> int:
    session = SimpleNamespace(exitstatus=0)
    plugin.pytest_sessionfinish(session)
    return int(session.exitstatus)


def run_all(plugin: UnusedPermissions) -> None:
    for path in STORIES.glob("test_*.py"):
        plugin.pytest_runtest_logreport(report(path))


def test_a_whole_run_fails_by_an_unused_permission(plugin):
    run_all(plugin)
    assert end(plugin) == 1
    assert [line.split(" is held")[0] for line in plugin.found] == ["reconcile: ec2:DeleteVpc"]
    assert not plugin.folder.exists()


@pytest.mark.parametrize("why", ["a file did not run", "failed", "skipped", "keyword", "lf"])
def test_a_part_of_the_tests_proves_nothing(plugin, why):
    first, *others = sorted(STORIES.glob("test_*.py"))
    for path in others if why == "a file did not run" else [first, *others]:
        plugin.pytest_runtest_logreport(report(path))
    if why in {"failed", "skipped"}:
        plugin.pytest_runtest_logreport(report(first, passed=False, **{why: True}))
    elif why in {"keyword", "lf"}:
        setattr(plugin.config.option, why, "reconcile")
    assert end(plugin) == 0
    assert plugin.found is None


def test_without_the_mode_the_run_passes_and_what_was_found_is_printed(plugin, monkeypatch):
    monkeypatch.delenv(permissions.MODE)
    run_all(plugin)
    assert end(plugin) == 0
    lines: list[str] = []
    reporter = SimpleNamespace(section=lines.append, line=lines.append)
    plugin.pytest_terminal_summary(reporter)
    assert any("ec2:DeleteVpc" in line for line in lines)
