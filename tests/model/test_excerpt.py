"""Excerpts keep the end of a program's output, and begin at a line or a word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.excerpt import (
    ELLIPSIS,
    MAX_REASON,
    MAX_SUMMARY,
    last_lines,
    last_part,
    shorten_reason,
)
from runctl.model.outcome import Outcome, OutcomeKind

WORDS = st.text(alphabet="ab é€😀\n", max_size=400)


@given(WORDS, st.integers(0, 200))
def test_excerpt_keeps_the_limit_and_ends_as_the_text_ends(text: str, limit: int) -> None:
    found = last_part(text, limit)
    assert len(found) <= limit
    assert text.endswith(found.removeprefix(ELLIPSIS).lstrip(" \n"))
    assert (found == text) == (len(text) <= limit)


def test_excerpt_begins_with_a_line_before_a_word_before_a_character() -> None:
    assert last_part("first line\nsecond line", 13) == "…\nsecond line"
    assert last_part("first line\nsecond line", 12) == "…second line"
    assert last_part("one long sentence without an end", 15) == "…without an end"
    assert last_part("one long sentence without an end", 16) == "… without an end"
    assert last_part("one long sentence without an end", 21) == "… without an end"
    assert last_part("x" * 50, 10) == "…" + "x" * 9


def test_reason_keeps_its_summary_and_its_last_characters() -> None:
    lines = "\n".join(f"warning {number}: " + "x" * 100 for number in range(12))
    reason = shorten_reason(f"exit code 1: {lines}\nTHE CAUSE: no space for rent")
    assert reason.startswith("exit code 1: …\nwarning ")
    assert reason.endswith("\nTHE CAUSE: no space for rent")
    assert MAX_REASON - 120 < len(reason) <= MAX_REASON


@pytest.mark.parametrize(
    "text",
    ["x" * 5000, "s" * (MAX_SUMMARY + 1) + ": " + "x" * 2000, "a\nb: " + "x" * 2000],
    ids=["no summary", "a long summary", "two lines before the colon"],
)
def test_reason_without_a_summary_is_the_end_of_the_text(text: str) -> None:
    reason = shorten_reason(text)
    assert reason.startswith(ELLIPSIS)
    assert reason.endswith("x" * 900)
    assert len(reason) <= MAX_REASON


def test_no_outcome_has_a_longer_reason_wherever_it_comes_from() -> None:
    reason = "exit code 1: " + "word " * 1000 + "the end"
    made = Outcome(kind=OutcomeKind.FAILED, reason=reason)
    read = Outcome.from_document({"kind": "failed", "reason": reason})
    assert made == read
    assert len(made.reason) <= MAX_REASON
    assert made.reason.endswith("word the end")


def test_last_lines_are_as_a_terminal_would_leave_them() -> None:
    bar = "\r".join(f"{done}%|{'#' * done}" for done in range(101))
    output = f"{bar}\r\n\n\x1b[31mRuntimeError\x1b[0m: out of \x1b]8;;http://x\x07luck\x07  \n\r\n"
    found = last_lines(output, most=15)
    assert found == "100%|" + "#" * 100 + "\nRuntimeError: out of luck"
    assert last_lines(output, most=1) == "RuntimeError: out of luck"
    assert last_lines("\n\r\n \n", most=3) == ""
