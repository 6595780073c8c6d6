"""A report whose token is spent, by a lost response or by a retry with a newer token."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from runctl.agent.reporting import report as module
from runctl.agent.reporting.report import report
from runctl.model.errors import TransientError
from runctl.model.outcome import Outcome, OutcomeKind

DONE = Outcome(kind=OutcomeKind.COMPLETED, step=7, exit_code=0)


class Workflow:
    """Accepts the valid tokens, after it has raised the errors in `errors`."""

    def __init__(self, *valid: str) -> None:
        self.valid = set(valid)
        self.tried: list[str] = []
        self.errors: list[Exception] = []

    def report(self, token: str, _document: Mapping[str, Any]) -> bool:
        self.tried.append(token)
        if self.errors:
            raise self.errors.pop(0)
        return token in self.valid


class TaskToken:
    """Finds `finds` in the ledger, one entry per read: a newer token, nothing, or the end."""

    def __init__(self, *finds: str) -> None:
        self.value = "old"
        self.is_over = False
        self.looks = 0
        self._finds = list(finds)

    def find_newer(self) -> bool:
        self.looks += 1
        found = self._finds.pop(0) if self._finds else ""
        self.is_over = found == "over"
        if found and not self.is_over:
            self.value = found
            return True
        return False


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWER_TOKEN_POLL", 0.0)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.0)


def test_newer_token_is_waited_for() -> None:
    workflow, token = Workflow("new"), TaskToken("", "", "new")
    assert report(workflow, token, DONE)  # type: ignore[arg-type]
    assert workflow.tried == ["old", "old", "old", "new"]


def test_spent_token_of_an_attempt_that_is_over_is_final() -> None:
    workflow, token = Workflow(), TaskToken("", "over")
    assert not report(workflow, token, DONE)  # type: ignore[arg-type]
    assert token.looks == 2


def test_newer_token_is_waited_for_no_longer_than_a_retry_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NEWER_TOKEN", timedelta(0))
    workflow, token = Workflow("never"), TaskToken()
    assert not report(workflow, token, DONE)  # type: ignore[arg-type]
    assert token.looks == 1


def test_request_with_a_lost_response_is_repeated_and_the_ledger_explains_the_spent_token() -> None:
    workflow, token = Workflow(), TaskToken("over")
    workflow.errors = [TransientError("the connection broke")]
    assert not report(workflow, token, DONE)  # type: ignore[arg-type]
    assert workflow.tried == ["old", "old"]


def test_without_a_token_nothing_is_reported() -> None:
    token = TaskToken()
    token.value = ""
    assert not report(Workflow(), token, DONE)  # type: ignore[arg-type]
