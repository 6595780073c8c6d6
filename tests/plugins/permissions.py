"""Names the permissions that no end-to-end test has used and that nothing explains.

Each local cloud of the tests records what its roles hold and what they were allowed. When every
file of end-to-end tests has run and nothing has failed, the two are compared; a part of the tests
proves nothing. `unused_permissions.toml` has the explanations. tests/infra/test_role_calls.py
compares the same permissions with the list of what each role does.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomllib

from runctl.model.role_calls import role_of

# Where each local cloud's record is written, by all workers; one that is given is kept.
FOLDER = "RUNCTL_PERMISSION_RECORDS"
# `fail`: what is unused and unexplained fails the tests, as in `make test`. Otherwise it is only
# printed, and a rerun of what has failed, which is a part of the tests, compares nothing.
MODE = "RUNCTL_UNUSED_PERMISSIONS"
EXPLANATIONS = Path(__file__).with_name("unused_permissions.toml")
STORIES = Path(__file__).parents[1] / "e2e"

Permission = tuple[str, str]  # a role of runctl.model.role_calls, and an action


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why roles hold actions that no test uses; both are patterns."""

    roles: tuple[str, ...]
    actions: tuple[str, ...]
    reason: str

    def explains(self, permission: Permission) -> bool:
        role, action = permission
        return _matches(role, self.roles) and _matches(action, self.actions)


def read_explanations(path: Path = EXPLANATIONS) -> list[Explanation]:
    """Return the explanations; raises ValueError for one without a reason."""
    found = []
    for entry in tomllib.loads(path.read_text())["unused"]:
        if not str(entry.get("reason", "")).strip():
            raise ValueError(f"{path.name}: {entry} has no reason")
        found.append(
            Explanation(
                roles=tuple(entry["roles"]),
                actions=tuple(entry["actions"]),
                reason=entry["reason"],
            )
        )
    return found


def problems(
    granted: Iterable[Permission], used: Iterable[Permission], explained: Iterable[Explanation]
) -> list[str]:
    """Return the permissions without use and explanation, and explanations of nothing."""
    granted, explained = set(granted), list(explained)
    unused = granted - set(used)
    found = [
        f"{role}: {action} is held, but no end-to-end test uses it; remove it, or explain it in "
        f"{EXPLANATIONS.name}"
        for role, action in sorted(unused)
        if not any(each.explains((role, action)) for each in explained)
    ]
    return found + [
        f"{EXPLANATIONS.name}: {', '.join(each.actions)} of {', '.join(each.roles)}: no role holds "
        "this any more; remove the entry"
        for each in explained
        if not any(each.explains(permission) for permission in granted)
    ]


def record(testbed: Any) -> None:
    """Write what the roles of a local cloud hold, and what they were allowed."""
    if folder := os.environ.get(FOLDER):
        names = _names(testbed.clients.get("cloudformation"))
        iam = testbed.clients.get("iam")
        document = {
            "granted": sorted(
                (role, action) for name, role in names.items() for action in _actions(iam, name)
            ),
            "used": sorted(
                (names[entry["role"]], entry["action"])
                for entry in testbed.cloud.used_permissions()
                if entry["role"] in names
            ),
        }
        (Path(folder) / f"{uuid.uuid4().hex}.json").write_text(json.dumps(document))


def read_records(folder: Path) -> tuple[set[Permission], set[Permission]]:
    """Return what roles hold and what they used, over all local clouds."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    granted, used = (
        {(role, action) for each in records for role, action in each[kind]}
        for kind in ("granted", "used")
    )
    return granted, used


@dataclass(eq=False)
class UnusedPermissions:
    """The plugin of pytest: collects the records of a session, and compares them at its end."""

    config: pytest.Config
    folder: Path = field(init=False)
    passed: set[str] = field(default_factory=set)
    has_failed: bool = False
    found: list[str] | None = None

    is_given: bool = False

    def __post_init__(self) -> None:
        given = os.environ.get(FOLDER, "")
        self.is_given = bool(given)
        self.folder = Path(given or tempfile.mkdtemp(prefix="permissions-"))
        self.folder.mkdir(exist_ok=True)
        os.environ[FOLDER] = str(self.folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which files have a test that passed, and whether any failed or was left out."""
        self.has_failed |= report.failed
        name = report.nodeid.partition("::")[0]
        if report.skipped and Path(name).parent.name == STORIES.name:
            self.has_failed = True  # what it would have used is unknown
        if report.passed and report.when == "call":
            self.passed.add(Path(name).name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Compare, if all end-to-end tests have run."""
        try:
            # Interrupted, or a worker has ended: not every record was written.
            if exitstatus == pytest.ExitCode.OK and self._is_complete():
                granted, used = read_records(self.folder)
                self.found = problems(granted, used, read_explanations())
        finally:
            if not self.is_given:
                shutil.rmtree(self.folder, ignore_errors=True)
                os.environ.pop(FOLDER, None)
        if self.found and os.environ.get(MODE) == "fail":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_complete(self) -> bool:
        options = self.config.option
        is_part = (
            options.keyword
            or options.markexpr
            or getattr(options, "lf", False)
            or getattr(options, "deselect", None)
            or any("::" in argument for argument in self.config.args)
        )
        stories = {path.name for path in STORIES.glob("test_*.py")}
        return not is_part and not self.has_failed and stories <= self.passed

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was found."""
        if self.found:
            terminalreporter.section(f"{len(self.found)} permissions that no test uses")
            for line in self.found:
                terminalreporter.line(line)


def install(config: pytest.Config) -> None:
    """Compare at the end of the session, in the process that sees all reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(UnusedPermissions(config), "unused-permissions")


def _names(cloudformation: Any) -> dict[str, str]:
    """Return the roles of all deployments, by their physical names."""
    stacks = [each["StackName"] for each in cloudformation.describe_stacks()["Stacks"]]
    resources = [
        resource
        for stack in stacks
        for resource in cloudformation.describe_stack_resources(StackName=stack)["StackResources"]
    ]
    return {
        resource["PhysicalResourceId"].rpartition("/")[2]: role
        for resource in resources
        if resource["ResourceType"] == "AWS::IAM::Role"
        and (role := role_of(resource["LogicalResourceId"])) is not None
    }


def _actions(iam: Any, name: str) -> set[str]:
    """Return the actions that the inline policies of a role allow."""
    documents = [
        iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    statements: list[Mapping[str, Any]] = [
        statement
        for document in documents
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
    ]
    listed = [statement["Action"] for statement in statements]
    return {
        action
        for actions in listed
        for action in ([actions] if isinstance(actions, str) else actions)
    }


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
