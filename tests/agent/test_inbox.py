"""Which end wins, and which deadline holds."""

from datetime import datetime, timedelta, timezone

import pytest

from runctl.agent.inbox import Cause, Ending, Inbox

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
SOON = NOW + timedelta(seconds=100)


def ending(cause: Cause, deadline: datetime | None = None) -> Ending:
    return Ending(cause=cause, reason=cause.name, detected=NOW, deadline=deadline)


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


def test_fence_outweighs_everything() -> None:
    inbox = Inbox()
    inbox.end(ending(Cause.STOP))
    assert inbox.end(ending(Cause.FENCED))
    assert not inbox.end(ending(Cause.NOTICE, SOON))
    assert inbox.is_fenced
    assert inbox.noticed_at == NOW
