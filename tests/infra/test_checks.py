"""The templates and the state machine pass the tools that know their rules."""

from types import ModuleType

import pytest

from tests.infra.templates import Synthesized


def test_no_rule_finds_what_nobody_accepted(check: ModuleType, app: Synthesized) -> None:
    assert list(check.open_findings(app.findings)) == []


def test_a_new_wildcard_is_a_finding(check: ModuleType, app: Synthesized) -> None:
    found = check.Finding(
        "AwsSolutions-IAM5[Action::s3:*]", "runctl-compute/InstanceRole/DefaultPolicy"
    )
    assert str(found) in list(check.open_findings([*app.findings, found]))


def test_an_acceptance_that_nothing_needs_is_told(check: ModuleType, app: Synthesized) -> None:
    assert len(list(check.open_findings([]))) == len(check.ACCEPTED)


def test_cfn_lint_has_nothing_to_say(check: ModuleType, app: Synthesized) -> None:
    assert check.lint_templates(app.outdir) == ""


def test_the_workflow_is_valid(check: ModuleType) -> None:
    assert check.validate_workflow() == ""


def test_an_invalid_workflow_is_told(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "read_definition", lambda: {"StartAt": "A", "States": {}})
    assert "Invalid" in check.validate_workflow() or "invalid" in check.validate_workflow()
