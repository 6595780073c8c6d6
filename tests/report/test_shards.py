"""The progress of runs and jobs that process data: one bar with the rate and the remaining time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.model.shard_progress import ShardProgress
from runctl.report.descriptions import describe_shards, shards_text
from runctl.report.processing_job import shards_together
from runctl.report.run_document import RunDocument, document_of
from tests.attempts import change, make_attempt

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
RUN = Run(
    run_id="clean-0001",
    request=RunRequest.of(kind="process", script="clean.py", code="s3://b/c.tar.gz"),
    started_at=NOW - timedelta(minutes=5),
    execution="clean-0001",
    execution_arn="arn",
)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "[--------------------] 0 of 8"),
        ({"done": 2}, "[#####---------------] 2 of 8"),
        ({"done": 2, "per_second": 2.0}, "[#####---------------] 2 of 8, 2 a second, 3s left"),
        ({"done": 2, "per_second": 0.1}, "[#####---------------] 2 of 8, 6 a minute, 1m 00s left"),
        (
            {"done": 2, "per_second": 1e-3},
            "[#####---------------] 2 of 8, 3.6 an hour, 1h 40m left",
        ),
        (
            {"done": 2, "failed": 2, "per_second": 2.0},
            "[##########----------] 2 of 8, 2 failed, 2 a second, 2s left",
        ),
        ({"done": 8, "per_second": 2.0}, "[####################] 8 of 8"),
        ({"done": 7, "failed": 1, "per_second": 2.0}, "[####################] 7 of 8, 1 failed"),
    ],
)
def test_the_bar_has_the_rate_and_the_remaining_time_once_they_are_known(counts, text):
    assert describe_shards(ShardProgress(total=8, **counts), has_ended=False) == text


def test_the_bar_of_what_has_ended_has_no_rate():
    shards = ShardProgress(total=8, done=2, per_second=2.0)
    assert describe_shards(shards, has_ended=True) == "[#####---------------] 2 of 8"


def attempt(number: int, *, seconds: float = 20, **counts: float) -> Attempt:
    return make_attempt(
        number,
        run_id=RUN.run_id,
        launched_at=NOW - timedelta(seconds=seconds),
        shards=ShardProgress(total=8, **counts),
    )


def ended(found: Attempt, *, seconds: float = 0) -> Attempt:
    return change(
        found,
        stage=AttemptStage.ENDED,
        ended=Outcome(kind=OutcomeKind.LOST, reason="silence"),
        ended_at=NOW - timedelta(seconds=seconds),
    )


def document(*attempts: Attempt, has_ended: bool = False) -> RunDocument:
    run = replace(RUN, ended=RunStatus.COMPLETED, ended_at=NOW) if has_ended else RUN
    return document_of(run, list(attempts), now=NOW)


def test_the_rate_of_an_attempt_that_has_ended_is_not_shown_until_the_next_one_has_its_own():
    first = ended(attempt(1, done=4, per_second=2.0))
    launched = make_attempt(2, run_id=RUN.run_id, stage=AttemptStage.LAUNCHED, launched_at=NOW)
    for attempts in ([first], [first, launched], [first, attempt(2, done=4, found=4)]):
        assert shards_text(document(*attempts)) == "[##########----------] 4 of 8"
    second = attempt(2, done=6, found=4, per_second=1.0)
    assert shards_text(document(first, second)).endswith("6 of 8, 1 a second, 2s left")


def test_the_rate_of_a_job_is_the_sum_of_those_of_its_active_runs():
    runs = [
        document(attempt(1, done=2, per_second=0.5)),
        document(attempt(1, done=1, per_second=1)),
    ]
    shards = shards_together(runs, 16)
    assert (shards.total, shards.done, shards.per_second) == (16, 3, 1.5)


def test_a_run_that_has_not_ended_a_shard_counts_with_the_average():
    done = document(ended(attempt(1, seconds=30, done=8), seconds=10), has_ended=True)
    young = document(attempt(1, seconds=20))
    # Eight shards in twenty and twenty seconds of attempts.
    assert shards_together([done, young], 16).per_second == pytest.approx(0.2)
    assert shards_together([done, young, young], 24).per_second == pytest.approx(2 * 8 / 60)


def test_the_rate_of_a_job_is_unknown_before_its_first_shard_and_after_its_last_run():
    assert shards_together([], 16).per_second is None
    assert shards_together([document(attempt(1))], 16).per_second is None
    assert shards_together([document()], 16).per_second is None
    last = document(ended(attempt(1, done=8)), has_ended=True)
    assert shards_together([last], 8).per_second is None
