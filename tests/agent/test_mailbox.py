"""The precedence of stop requests, and the deadline that applies."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
SOON = NOW + timedelta(seconds=100)


def ending(cause: StopCause, deadline: datetime | None = None) -> StopRequest:
    return StopRequest(cause=cause, reason=cause.name, detected=NOW, deadline=deadline, heard=50.0)


@pytest.mark.parametrize("first", [StopCause.STOP, StopCause.NOTICE])
def test_deadline_of_a_notice_applies_whichever_came_first(first: StopCause) -> None:
    ends = [ending(StopCause.STOP), ending(StopCause.NOTICE, SOON)]
    ends.sort(key=lambda end: end.cause is not first)
    mailbox = Mailbox()
    for end in ends:
        mailbox.end(end)
    assert mailbox.ending is not None
    assert (mailbox.ending.cause, mailbox.ending.deadline) == (StopCause.STOP, SOON)
    assert mailbox.noticed_at == NOW


def test_earlier_of_two_deadlines_applies() -> None:
    mailbox = Mailbox()
    assert mailbox.end(ending(StopCause.NOTICE, SOON))
    assert not mailbox.end(ending(StopCause.NOTICE, NOW))
    assert not mailbox.end(ending(StopCause.NOTICE, SOON + timedelta(hours=1)))
    assert mailbox.ending is not None
    assert mailbox.ending.deadline == NOW


def test_time_left_is_counted_from_the_arrival_of_the_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So no step of the wall clock within the notice moves the deadline."""
    notice = ending(StopCause.NOTICE, SOON)
    monkeypatch.setattr("runctl.agent.signals.mailbox.time.monotonic", lambda: 50.0 + 30)
    assert notice.time_left() == timedelta(seconds=70)
    assert ending(StopCause.STOP).time_left() is None


def test_deadlines_from_different_clocks_are_compared_by_when_they_come() -> None:
    """The clock was set back an hour between the two."""
    mailbox = Mailbox()
    mailbox.end(ending(StopCause.NOTICE, SOON))
    earlier = NOW - timedelta(hours=1)
    later = StopRequest(
        cause=StopCause.STOP,
        reason="",
        detected=earlier,
        deadline=earlier + timedelta(seconds=95),
        heard=60.0,
    )
    mailbox.end(later)
    assert mailbox.ending is not None
    assert mailbox.ending.deadline_at == 150.0


def test_fence_outweighs_everything() -> None:
    mailbox = Mailbox()
    mailbox.end(ending(StopCause.STOP))
    assert mailbox.end(ending(StopCause.FENCED))
    assert not mailbox.end(ending(StopCause.NOTICE, SOON))
    assert mailbox.is_fenced
    assert mailbox.noticed_at == NOW


def test_what_the_peers_lack_applies_whichever_request_wins() -> None:
    mailbox = Mailbox()
    mailbox.end(replace(ending(StopCause.PEER), lost_ranks=(2,)))
    mailbox.end(ending(StopCause.NOTICE, SOON))
    mailbox.end(replace(ending(StopCause.PEER), lost_ranks=(1,), kill_at=60.0))
    mailbox.end(replace(ending(StopCause.PEER), kill_at=70.0))
    found = mailbox.ending
    assert found is not None
    assert (found.cause, found.deadline) == (StopCause.NOTICE, SOON)
    assert (found.lost_ranks, found.kill_at) == ((1, 2), 60.0)
