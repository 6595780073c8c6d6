"""HTML pages show what the command line shows, from the same values and without its code."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import datetime
from html import unescape

import pytest

from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.run import AttemptStage, summarize
from runctl.report.follower import Follower
from runctl.report.run_document import document_of
from runctl.report.run_list import entry_of
from tests.control.memory_ledger import MemoryLedger
from tests.report.html_page import HtmlDisplay, list_page, run_page
from tests.report.sample import ATTEMPTS, NOW, RUN, TRACEBACK, VERSIONS

DOCUMENT = document_of(RUN, ATTEMPTS, VERSIONS, now=NOW)


def texts_of(page: str) -> list[str]:
    """Return the texts between the tags of a page, in order."""
    return [unescape(text) for text in re.findall(r">([^<]+)<", page)]


def test_page_of_a_run_shows_its_facts() -> None:
    texts = texts_of(run_page(DOCUMENT))
    for expected in (
        "running",
        "step 450, 3m 00s ago",
        "every 4m 10s: a save costs 2.1s, an interruption every 2h 10m is expected",
        "3h 49m spot, 49m 00s on-demand",
        "loss 0.125 · epoch 4",
        "1 of the program; up to 2 are retried",
        "start → 412",
        "412 → save 8",
        "no_capacity",
        "the disk is nearly full",
    ):
        assert expected in texts, texts
    assert "hunter2" not in "".join(texts)


def test_page_of_a_failed_run_shows_its_last_lines_as_text() -> None:
    failed = replace(RUN, ended=RunStatus.FAILED, ended_at=NOW, reason=TRACEBACK)
    page = run_page(document_of(failed, ATTEMPTS[:3], now=NOW))
    assert "<no>" not in page
    assert "ValueError: <no> & more" in "".join(texts_of(page))


def test_page_of_a_list_shows_its_entries() -> None:
    page = list_page([entry_of(RUN, summarize(ATTEMPTS))])
    assert texts_of(page) == ["lm", "running", "5", "g5.xlarge/us-east-1c/spot"]


@dataclass
class Line:
    text: str
    at: datetime = NOW


class Logs:
    """Two lines in the log of attempt 5."""

    def read(self, stream: str, *, position: str, since: datetime | None):
        is_new = stream.endswith("0005-000") and not position
        return ([Line("one\n"), Line("<two>\n")] if is_new else []), "end"


class Source:
    """A deployment in memory, in which the run ends after the first read."""

    pause, is_near, workflow = 0.01, True, None

    def __init__(self) -> None:
        self.ledger, self.logs = MemoryLedger(), Logs()
        self.ledger.runs["lm"] = RUN
        self.ledger.attempt_items = {("lm", a.number): a for a in ATTEMPTS}

    def end(self, _seconds: float) -> None:
        last = self.ledger.attempt_items["lm", 5]
        ended = replace(
            last, stage=AttemptStage.ENDED, ended=Outcome(kind=OutcomeKind.COMPLETED), ended_at=NOW
        )
        self.ledger.attempt_items["lm", 5] = ended
        self.ledger.end_run("lm", status=RunStatus.COMPLETED, reason="done", now=NOW)


def test_run_is_followed_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "_check_execution", lambda *_: None)
    source, display = Source(), HtmlDisplay()
    run = Follower(
        source, "lm", RUN.execution_arn, display, after_attempt=4, sleep=source.end
    ).follow()
    assert run.status is RunStatus.COMPLETED
    assert "<em>completed</em>" in display.state
    assert display.elements == [
        "<li class=progress>attempt 5 trains on g5.xlarge/us-east-1c/spot from save 8</li>",
        "<li class=neutral>checkpoint of step 450</li>",
        "<code>one</code>",
        "<code>&lt;two&gt;</code>",
        "<li class=success>attempt 5 completed</li>",
    ]


def test_values_cannot_be_changed() -> None:
    for value in (DOCUMENT, DOCUMENT.entry, DOCUMENT.cost, *DOCUMENT.timeline):
        with pytest.raises(FrozenInstanceError):
            value.__setattr__(next(iter(vars(value))), None)


def test_reports_load_no_display() -> None:
    code = (
        "import sys, tests.report.html_page; "
        "print([name for name in sys.modules if name.startswith(('rich', 'typer', 'runctl.cli'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
