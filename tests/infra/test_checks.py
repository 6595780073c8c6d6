"""The templates and the state machine pass the tools that know their rules."""

import pytest

from stacks import check
from stacks.check import ACCEPTED, Finding
from tests.infra.templates import Synthesized


def test_no_rule_finds_what_nobody_accepted(app: Synthesized) -> None:
    assert list(check.open_findings(app.findings)) == []


def test_a_new_wildcard_is_a_finding(app: Synthesized) -> None:
    found = Finding("AwsSolutions-IAM5[Action::s3:*]", "runctl-compute/InstanceRole/DefaultPolicy")
    assert str(found) in list(check.open_findings([*app.findings, found]))


def test_an_acceptance_that_nothing_needs_is_told(app: Synthesized) -> None:
    assert len(list(check.open_findings([]))) == len(ACCEPTED)


def test_cfn_lint_has_nothing_to_say(app: Synthesized) -> None:
    assert check.lint_templates(app.outdir) == ""


def test_the_workflow_is_valid() -> None:
    assert check.validate_workflow() == ""


def test_an_invalid_workflow_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "read_definition", lambda: {"StartAt": "A", "States": {}})
    assert "Invalid" in check.validate_workflow() or "invalid" in check.validate_workflow()
