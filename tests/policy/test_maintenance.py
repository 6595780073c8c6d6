"""Scheduled events: how they are read, when an attempt saves, and when it leaves."""

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.maintenance import ScheduledEvent, read_scheduled_events
from runctl.policy.maintenance import LEAVE_BEFORE, Response, describe, is_near, respond
from tests.control.fakes import START

DOCUMENTED = {
    "NotBefore": "21 Jan 2019 09:00:43 GMT",
    "Code": "system-reboot",
    "Description": "scheduled reboot",
    "EventId": "instance-event-0d59937288b749b32",
    "NotAfter": "21 Jan 2019 09:17:23 GMT",
    "State": "active",
}


def event(code: str, *, minutes: float | None) -> ScheduledEvent:
    not_before = None if minutes is None else START + timedelta(minutes=minutes)
    return ScheduledEvent(event_id="e", code=code, not_before=not_before)


def test_event_is_read_as_the_user_guide_shows_it():
    (found,) = read_scheduled_events(json.dumps([DOCUMENTED]))
    assert found.event_id == "instance-event-0d59937288b749b32"
    assert found.code == "system-reboot"
    assert found.not_before.isoformat() == "2019-01-21T09:00:43+00:00"


@pytest.mark.parametrize("state", ["completed", "canceled"])
def test_past_event_is_ignored(state):
    assert read_scheduled_events(json.dumps([{**DOCUMENTED, "State": state}])) == ()


@pytest.mark.parametrize(
    "text",
    [None, "", "[]", "{}", "soon", "[[]]", "null", "7", '[{"Code": 7}]', "[{}]", "[" * 100_000],
)
def test_unreadable_event_is_ignored(text):
    assert read_scheduled_events(text) == ()


@pytest.mark.parametrize("not_before", [None, 7, "soon", "99 Foo 2019", "2019-13-40T00:00:00Z"])
def test_event_with_an_unreadable_start_requests_one_save(not_before):
    text = json.dumps([{**DOCUMENTED, "Code": "instance-stop", "NotBefore": not_before}])
    (found,) = read_scheduled_events(text)
    assert found.not_before is None
    answer = respond(found, set(), now=START)
    assert answer.response is Response.SAVE
    assert respond(found, {answer.stage}, now=START).response is Response.NOTHING


@pytest.mark.parametrize("code", ["instance-retirement", "instance-stop"])
def test_instance_that_will_end_is_left_a_quarter_of_an_hour_before(code):
    early = respond(event(code, minutes=16), set(), now=START)
    assert early.response is Response.SAVE
    assert respond(event(code, minutes=16), {"known"}, now=START).response is Response.NOTHING
    answer = respond(event(code, minutes=14), {"known"}, now=START)
    assert answer.response is Response.LEAVE
    assert answer.deadline == START + timedelta(minutes=14)


def test_event_that_is_already_due_leaves_the_time_of_a_notice():
    answer = respond(event("instance-stop", minutes=-600), {"known"}, now=START)
    assert answer.response is Response.LEAVE
    assert timedelta(minutes=1) < answer.deadline - START < timedelta(minutes=2)


@pytest.mark.parametrize(
    "code", ["instance-reboot", "system-reboot", "system-maintenance", "something-new"]
)
def test_reboot_requests_a_save_when_it_becomes_known_and_right_before(code):
    asked: set[str] = set()
    responses = []
    for minutes in (600, 300, 14, 1.5, 1, -1):
        answer = respond(event(code, minutes=minutes), asked, now=START)
        responses.append(answer.response)
        asked.add(answer.stage)
    save, nothing = Response.SAVE, Response.NOTHING
    assert responses == [save, nothing, nothing, save, nothing, nothing]


@given(
    code=st.sampled_from(["instance-stop", "instance-retirement", "system-reboot", "x"]),
    minutes=st.none() | st.floats(-1e6, 1e6),
    asked=st.sets(st.sampled_from(["known", "near"])),
)
def test_only_an_instance_that_ends_soon_is_left_and_always_with_time_to_save(code, minutes, asked):
    answer = respond(event(code, minutes=minutes), asked, now=START)
    leaves = answer.response is Response.LEAVE
    ends = code in {"instance-stop", "instance-retirement"}
    is_soon = minutes is not None and timedelta(minutes=minutes) <= LEAVE_BEFORE
    assert leaves == (ends and is_soon)
    assert (answer.deadline is not None) == leaves
    assert answer.deadline is None or answer.deadline > START


def test_status_says_what_is_scheduled_and_what_follows():
    assert describe([]) == ""
    stop = describe([event("instance-stop", minutes=90)])
    assert "instance-stop not before 2030-01-01 13:30 UTC" in stop
    assert stop.endswith("the run will move to another one before that")
    assert "will save before" in describe([event("system-reboot", minutes=None)])


def test_event_is_near_within_an_hour():
    assert is_near(event("instance-stop", minutes=59), now=START)
    assert not is_near(event("instance-stop", minutes=61), now=START)
    assert not is_near(event("instance-stop", minutes=None), now=START)
