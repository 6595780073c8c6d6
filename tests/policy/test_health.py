"""Failing status checks: an attempt is replaced only if its agent is silent as well."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.machine import MachineStatus
from runctl.model.maintenance import ScheduledEvent
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.health import IMPAIRED_FOR, SILENT_FOR, Treatment, describe, judge
from tests.attempts import make_attempt
from tests.control.fakes import START

MINUTE = timedelta(minutes=1)


def attempt(silent=None, **fields) -> Attempt:
    known = {
        "stage": AttemptStage.RUNNING,
        "has_token": True,
        "launched_at": START - timedelta(hours=5),
        "running_at": START - timedelta(hours=5),
        "heartbeat_at": None if silent is None else START - silent,
    }
    return make_attempt(instance_id="i-1", **{**known, **fields})


def impaired(since=None, *, check="system", **fields) -> MachineStatus:
    known = {check: None if since is None else START - since}
    return MachineStatus(instance_id="i-1", impaired=known, **fields)


def test_silent_agent_on_a_failed_machine_is_replaced():
    assert judge(impaired(6 * MINUTE), attempt(3 * MINUTE), now=START) is Treatment.REPLACE
    assert judge(impaired(6 * MINUTE), attempt(None), now=START) is Treatment.REPLACE


def test_agent_with_a_live_heartbeat_is_only_asked_to_save():
    treatment = judge(impaired(timedelta(days=1)), attempt(MINUTE), now=START)
    assert treatment is Treatment.SAVE


@pytest.mark.parametrize("since", [None, timedelta(0), 4 * MINUTE])
def test_check_that_has_just_begun_to_fail_waits_for_the_heartbeat(since):
    assert judge(impaired(since), attempt(3 * MINUTE), now=START) is Treatment.NOTHING


def test_silence_alone_is_left_to_the_heartbeat():
    status = MachineStatus(instance_id="i-1")
    assert judge(status, attempt(timedelta(hours=1)), now=START) is Treatment.NOTHING


def test_attempt_that_just_got_its_token_has_not_been_silent():
    fresh = attempt(timedelta(hours=1), running_at=START - MINUTE)
    assert judge(impaired(timedelta(hours=1)), fresh, now=START) is not Treatment.REPLACE


@pytest.mark.parametrize(
    "fields",
    [
        {"noticed_at": START},
        {"stage": AttemptStage.ENDED, "ended": Outcome(kind=OutcomeKind.LOST)},
    ],
)
def test_attempt_that_has_a_notice_or_has_ended_is_left_alone(fields):
    current = attempt(timedelta(hours=1), **fields)
    assert judge(impaired(timedelta(hours=1)), current, now=START) is Treatment.NOTHING


@pytest.mark.parametrize(("minutes", "treatment"), [(30, Treatment.SAVE), (90, Treatment.NOTHING)])
def test_maintenance_within_the_hour_requests_a_save(minutes, treatment):
    event = ScheduledEvent(event_id="e", code="instance-stop", not_before=START + minutes * MINUTE)
    status = MachineStatus(instance_id="i-1", events=(event,))
    assert judge(status, attempt(MINUTE), now=START) is treatment


@given(
    since=st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
    silent=st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
    noticed=st.booleans(),
    stage=st.sampled_from(list(AttemptStage)),
    trains_for=st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_attempt_with_a_live_heartbeat_or_a_notice_is_never_replaced(
    since, silent, noticed, stage, trains_for
):
    known = attempt(
        silent,
        stage=stage,
        running_at=START - trains_for,
        noticed_at=START if noticed else None,
    )
    if judge(impaired(since), known, now=START) is Treatment.REPLACE:
        assert not noticed
        assert silent is None or silent >= SILENT_FOR
        assert trains_for >= SILENT_FOR
        assert since is not None
        assert since >= IMPAIRED_FOR


def test_reason_names_the_check_and_when_it_began_to_fail():
    text = describe(impaired(90 * MINUTE))
    assert text == "EC2's system status check of i-1 fails since 2030-01-01 10:30 UTC"
