"""Which end wins, and which deadline holds."""

from datetime import datetime, timedelta, timezone

import pytest

from runctl.agent.signals.mailbox import Cause, Ending, Inbox

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
SOON = NOW + timedelta(seconds=100)


def ending(cause: Cause, deadline: datetime | None = None) -> Ending:
    return Ending(cause=cause, reason=cause.name, detected=NOW, deadline=deadline, heard=50.0)


@pytest.mark.parametrize("first", [Cause.STOP, Cause.NOTICE])
def test_deadline_of_a_notice_holds_whichever_came_first(first: Cause) -> None:
    ends = [ending(Cause.STOP), ending(Cause.NOTICE, SOON)]
    ends.sort(key=lambda one: one.cause is not first)
    inbox = Inbox()
    for one in ends:
        inbox.end(one)
    assert inbox.ending is not None
    assert (inbox.ending.cause, inbox.ending.deadline) == (Cause.STOP, SOON)
    assert inbox.noticed_at == NOW


def test_earlier_deadline_of_two_holds() -> None:
    inbox = Inbox()
    assert inbox.end(ending(Cause.NOTICE, SOON))
    assert not inbox.end(ending(Cause.NOTICE, NOW))
    assert not inbox.end(ending(Cause.NOTICE, SOON + timedelta(hours=1)))
    assert inbox.ending is not None
    assert inbox.ending.deadline == NOW


def test_time_left_is_counted_from_when_the_notice_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So no step of the wall clock within the notice moves the deadline."""
    one = ending(Cause.NOTICE, SOON)
    monkeypatch.setattr("runctl.agent.signals.mailbox.time.monotonic", lambda: 50.0 + 30)
    assert one.time_left() == timedelta(seconds=70)
    assert ending(Cause.STOP).time_left() is None


def test_deadlines_that_were_told_by_different_clocks_are_compared_by_when_they_come() -> None:
    """The clock was set back an hour between the two."""
    inbox = Inbox()
    inbox.end(ending(Cause.NOTICE, SOON))
    earlier = NOW - timedelta(hours=1)
    later = Ending(
        cause=Cause.STOP,
        reason="",
        detected=earlier,
        deadline=earlier + timedelta(seconds=95),
        heard=60.0,
    )
    inbox.end(later)
    assert inbox.ending is not None
    assert inbox.ending.deadline_at == 150.0


def test_fence_outweighs_everything() -> None:
    inbox = Inbox()
    inbox.end(ending(Cause.STOP))
    assert inbox.end(ending(Cause.FENCED))
    assert not inbox.end(ending(Cause.NOTICE, SOON))
    assert inbox.is_fenced
    assert inbox.noticed_at == NOW
