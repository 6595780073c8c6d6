"""The templates and the state machine pass their linters."""

from types import ModuleType
from typing import Any

import pytest

from tests.infra.mapping import mapping_definition
from tests.infra.templates import Synthesized


def test_every_finding_is_accepted(check: ModuleType, app: Synthesized) -> None:
    assert list(check.open_findings(app.findings)) == []


def test_a_new_wildcard_is_a_finding(check: ModuleType, app: Synthesized) -> None:
    found = check.Finding(
        "AwsSolutions-IAM5[Action::s3:*]", "runctl-compute/InstanceRole/DefaultPolicy"
    )
    assert str(found) in list(check.open_findings([*app.findings, found]))


def test_an_unused_acceptance_is_reported(check: ModuleType, app: Synthesized) -> None:
    assert len(list(check.open_findings([]))) == len(check.ACCEPTED)


def test_cfn_lint_accepts_the_templates(check: ModuleType, app: Synthesized) -> None:
    assert check.lint_templates(app.outdir) == ""


def test_the_workflows_are_valid(check: ModuleType) -> None:
    assert check.validate_workflows() == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"States": {}}, "Invalid"),
        ({"StartAt": "Elsewhere"}, "Elsewhere"),
    ],
)
def test_an_invalid_workflow_is_reported(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], problem: str
) -> None:
    good = mapping_definition()
    definitions = {"train": good, "sweep": good | change}
    monkeypatch.setattr(check, "definition_names", lambda: list(definitions))
    monkeypatch.setattr(check, "read_definition", lambda name: good)
    assert check.validate_workflows() == ""
    monkeypatch.setattr(check, "read_definition", definitions.__getitem__)
    assert problem.lower() in check.validate_workflows().lower()
