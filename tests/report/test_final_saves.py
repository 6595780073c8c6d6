"""Final saves that did not finish within their grace period, as `runctl status` counts them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from runctl.model.request import RunRequest
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.model.saving import Saving
from runctl.report.descriptions import final_saves_text
from runctl.report.run_document import RunDocument, document_of
from tests.attempts import change, make_attempt

MISSED = make_attempt(
    run_id="lm",
    stage=AttemptStage.ENDED,
    saving=Saving(missed_grace=timedelta(seconds=30)),
)
FINE = change(MISSED, number=2, saving=Saving(size_bytes=10))
RUN = Run(
    run_id="lm",
    request=RunRequest.of(script="train.py", code="s3://b/c.tar.gz"),
    started_at=datetime(2026, 11, 28, tzinfo=timezone.utc),
    execution="e",
    execution_arn="arn",
)


def document(*attempts: Attempt) -> RunDocument:
    return document_of(RUN, attempts, now=RUN.started_at)


def test_missed_final_saves_are_counted_and_the_remedy_is_named_after_several() -> None:
    again = [replace(MISSED, number=number) for number in (3, 4)]
    assert final_saves_text(document(FINE).cost) == ""
    assert final_saves_text(document(MISSED, FINE).cost) == (
        "1 did not finish within the grace period (attempt 1)"
    )
    text = final_saves_text(document(MISSED, FINE, *again).cost)
    assert text.startswith("3 did not finish within the grace period (attempts 1, 3, 4): ")
    assert "30s; raise checkpoint.grace_seconds" in text
    assert document(MISSED, FINE, *again).as_document()["unfinished_final_saves"] == 3
    assert document(FINE).as_document()["unfinished_final_saves"] == 0


def test_missed_grace_is_stored_and_read_back() -> None:
    assert Saving.from_document(MISSED.saving.as_document()) == MISSED.saving
    assert Saving.from_document({"missed_grace_seconds": "soon"}) == Saving()
