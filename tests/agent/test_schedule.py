"""When a save is requested, and when saves have stopped."""

from datetime import datetime, timedelta, timezone

from runctl.agent.saving.schedule import CheckpointSchedule
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.interval import UNTIL_THE_FIRST, Uptime, uptime_of

MINUTE = 60.0


def pace(
    *, fixed: float | None = None, interruptions: int = 0, hours: float = 0
) -> CheckpointSchedule:
    return CheckpointSchedule(
        fixed=None if fixed is None else timedelta(seconds=fixed),
        seen=Uptime(trained=timedelta(hours=hours), interruptions=interruptions),
        began=0,
    )


def test_fixed_interval_is_kept() -> None:
    judge = pace(fixed=300)
    assert not judge.is_due(299)
    assert judge.is_due(300)
    judge.note_asked(300)
    assert not judge.is_due(301)
    judge.note_commit(310, cost=None)
    assert not judge.is_due(609)
    assert judge.is_due(610)


def test_interval_follows_the_cost_that_the_helper_measured_and_the_interruptions_seen() -> None:
    judge = pace(interruptions=11, hours=12)
    assert judge.interval(0).every == UNTIL_THE_FIRST
    judge.note_commit(0, cost=timedelta(seconds=8))
    # M = (12 h + 12 h) / 12 = 2 h; √(2 × 8 s × 7200 s) = 339 s.
    assert round(judge.interval(0).every.total_seconds()) == 339
    assert judge.interval(0).cost == timedelta(seconds=8)
    assert judge.interval(0).uptime == timedelta(hours=2)
    judge.note_commit(60, cost=None)  # a measured value is kept
    assert judge.interval(60).every < UNTIL_THE_FIRST


def test_save_that_the_trainer_just_made_by_itself_is_not_requested() -> None:
    judge = pace(fixed=300)
    judge.note_commit(290, cost=None)
    assert not judge.is_due(400)


def test_missing_checkpoints_for_two_intervals_are_reported() -> None:
    judge = pace(fixed=300)
    assert judge.overdue(600) == ""
    assert "no checkpoint was committed for 11 min" in judge.overdue(660)
    judge.note_commit(661, cost=None)
    assert judge.overdue(662) == ""


def test_trainer_that_saves_rarely_is_measured_by_its_own_interval() -> None:
    judge = pace(fixed=60)
    judge.note_commit(50 * MINUTE, cost=None)
    assert judge.overdue(140 * MINUTE) == ""
    assert judge.overdue(151 * MINUTE) != ""


def test_uptime_counts_attempts_that_trained_and_those_that_were_taken() -> None:
    at = datetime(2026, 5, 1, tzinfo=timezone.utc)

    def attempt(number: int, kind: OutcomeKind | None, *, trained: bool = True) -> Attempt:
        return Attempt(
            run_id="r",
            number=number,
            stage=AttemptStage.ENDED,
            running_at=at if trained else None,
            ended_at=None if kind is None else at + timedelta(hours=number),
            ended=None if kind is None else Outcome(kind=kind),
        )

    uptime = uptime_of(
        [
            attempt(1, OutcomeKind.INTERRUPTED),
            attempt(2, OutcomeKind.STOPPED),
            attempt(3, OutcomeKind.LOST),
            attempt(4, OutcomeKind.INTERRUPTED, trained=False),
            attempt(5, OutcomeKind.NO_CAPACITY, trained=False),
            attempt(6, None),
        ]
    )
    assert uptime == Uptime(trained=timedelta(hours=6), interruptions=2)
