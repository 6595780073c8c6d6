"""The decision after an outcome: there always is one, and a higher limit never gives up sooner."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.decision import (
    MAX_DOUBLINGS,
    READY,
    STALLED_ATTEMPTS,
    DecisionKind,
    decide,
    is_progress,
)
from runctl.model.kinds import ENVIRONMENT, KINDS, SERVE, TRAIN, KindPolicy, policy_of
from runctl.model.outcome import FINAL, Outcome, OutcomeKind, RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Attempt, AttemptStage, Run, derive_status
from tests.attempts import change, make_attempt

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
TRAIN_POLICY = KINDS[TRAIN]
SERVICE = KindPolicy(retries_failures=False, restarts_indefinitely=True, may_overlap=True)
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED)
INTERRUPTED = Outcome(kind=OutcomeKind.INTERRUPTED)
NO_CAPACITY = Outcome(kind=OutcomeKind.NO_CAPACITY)


def a_run(*, step=None, committed_at=None, progressed_attempt=None, **request):
    return Run(
        run_id="run-1",
        request=parse_request({"command": ["train"], **request}),
        started_at=NOW,
        execution="run-1",
        execution_arn="arn",
        step=step,
        committed_at=committed_at,
        progressed_attempt=progressed_attempt,
        save=0 if progressed_attempt is None else 1,
    )


def an_attempt(number, *, launched=True, minute=None, resume_step=None):
    trained = None if minute is None else NOW + timedelta(minutes=minute)
    return make_attempt(
        number,
        stage=AttemptStage.ENDED,
        instance_id=f"i-{number}" if launched else "",
        running_at=trained,
        resume_step=resume_step,
    )


outcomes = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    reason=st.text(max_size=5),
    exit_code=st.none() | st.integers(-15, 255),
    step=st.none() | st.integers(0, 99),
    is_disk_full=st.booleans(),
)
attempts = st.lists(
    st.builds(
        an_attempt,
        st.just(1),
        launched=st.booleans(),
        minute=st.none() | st.integers(0, 60),
        resume_step=st.none() | st.integers(0, 9),
    ),
    max_size=12,
).map(lambda made: [replace(attempt, number=at) for at, attempt in enumerate(made, start=1)])
runs = st.builds(
    a_run,
    step=st.none() | st.integers(0, 9),
    committed_at=st.none() | st.integers(0, 60).map(lambda m: NOW + timedelta(minutes=m)),
    max_attempts=st.integers(1, 20),
    auto_resume=st.booleans(),
    deadline=st.sampled_from(["2029-01-01T00:00:00Z", "2031-01-01T00:00:00Z"]),
)


@given(run=runs, tried=attempts, outcome=outcomes)
def test_something_always_follows(run, tried, outcome):
    decision = decide(run, tried, outcome, policy=TRAIN_POLICY, now=NOW)
    assert decision.reason
    if decision.kind is DecisionKind.RELAUNCH:
        assert decision.status is None
    else:
        assert decision.status in FINAL


@given(run=runs, tried=attempts, outcome=outcomes, more=st.integers(1, 50))
def test_more_attempts_never_give_up_sooner(run, tried, outcome, more):
    richer = replace(
        run,
        request=replace(
            run.request,
            limits=replace(run.request.limits, max_attempts=run.request.limits.max_attempts + more),
        ),
    )
    if decide(run, tried, outcome, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.RELAUNCH:
        assert (
            decide(richer, tried, outcome, policy=TRAIN_POLICY, now=NOW).kind
            is DecisionKind.RELAUNCH
        )


@given(run=runs, tried=attempts, outcome=outcomes, hours=st.integers(1, 99999))
def test_time_never_turns_giving_up_into_a_relaunch(run, tried, outcome, hours):
    later = NOW + timedelta(hours=hours)
    if decide(run, tried, outcome, policy=TRAIN_POLICY, now=NOW).kind is not DecisionKind.RELAUNCH:
        assert (
            decide(run, tried, outcome, policy=TRAIN_POLICY, now=later).kind
            is not DecisionKind.RELAUNCH
        )


@given(run=runs, tried=attempts, outcome=outcomes)
def test_without_retry_only_interruptions_and_full_disks_are_followed_by_a_relaunch(
    run, tried, outcome
):
    relaunched = {OutcomeKind.INTERRUPTED, OutcomeKind.LOST, OutcomeKind.NO_CAPACITY}
    if outcome.is_disk_full:
        relaunched.add(OutcomeKind.FAILED)
    if decide(run, tried, outcome, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.RELAUNCH:
        assert outcome.kind in relaunched


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (OutcomeKind.COMPLETED, RunStatus.COMPLETED),
        (OutcomeKind.STOPPED, RunStatus.STOPPED),
        (OutcomeKind.FAILED, RunStatus.FAILED),
    ],
)
def test_a_trainer_that_ends_by_itself_ends_the_run(kind, status):
    assert (
        decide(a_run(), [an_attempt(1)], Outcome(kind=kind), policy=TRAIN_POLICY, now=NOW).status
        is status
    )


@pytest.mark.parametrize("kind", [OutcomeKind.INTERRUPTED, OutcomeKind.LOST])
def test_without_auto_resume_an_interruption_ends_the_run(kind):
    run = a_run(auto_resume=False)
    decision = decide(run, [an_attempt(1)], Outcome(kind=kind), policy=TRAIN_POLICY, now=NOW)
    assert (decision.kind, decision.status) == (DecisionKind.FINISH, RunStatus.INTERRUPTED)


def test_attempts_that_were_never_launched_are_not_spent():
    run = a_run(max_attempts=1)
    refused = [an_attempt(number, launched=False) for number in range(1, 30)]
    assert (
        decide(run, refused, NO_CAPACITY, policy=TRAIN_POLICY, now=NOW).kind
        is DecisionKind.RELAUNCH
    )


def test_the_last_attempt_is_the_last():
    run = a_run(max_attempts=1)
    assert (
        decide(run, [an_attempt(1)], INTERRUPTED, policy=TRAIN_POLICY, now=NOW).kind
        is DecisionKind.GIVE_UP
    )


def stalled(**first):
    return [
        an_attempt(1, **first),
        *(an_attempt(number) for number in range(2, STALLED_ATTEMPTS + 1)),
    ]


def test_machines_that_never_start_training_are_given_up_however_far_the_run_was():
    run = a_run(step=50, committed_at=NOW)
    decision = decide(run, stalled(), Outcome(kind=OutcomeKind.LOST), policy=TRAIN_POLICY, now=NOW)
    assert decision.kind is DecisionKind.GIVE_UP
    assert "without a new checkpoint" in decision.reason


def test_saving_the_restored_state_again_is_not_progress():
    run = a_run(step=5, committed_at=NOW + timedelta(minutes=9))
    tried = stalled(minute=1, resume_step=5)
    assert (
        decide(run, tried, INTERRUPTED, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.GIVE_UP
    )


@pytest.mark.parametrize("resume_step", [None, 4])
def test_a_new_checkpoint_keeps_the_run_going(resume_step):
    run = a_run(step=5, committed_at=NOW + timedelta(minutes=9))
    tried = stalled(minute=1, resume_step=resume_step)
    assert (
        decide(run, tried, INTERRUPTED, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.RELAUNCH
    )


def taken(minutes):
    """Return three attempts, each of which EC2 took after `minutes` minutes."""
    return [
        replace(
            an_attempt(number),
            launched_at=NOW,
            ended_at=NOW + timedelta(minutes=minutes),
            ended=INTERRUPTED,
        )
        for number in range(1, STALLED_ATTEMPTS + 1)
    ]


def test_machines_that_ec2_takes_at_once_are_no_reason_to_give_up():
    run = a_run(step=50, committed_at=NOW)
    assert (
        decide(run, taken(1), INTERRUPTED, policy=TRAIN_POLICY, now=NOW).kind
        is DecisionKind.RELAUNCH
    )
    # The end of the last one may not be recorded yet.
    *before, last = taken(1)
    unset = replace(last, ended=None, ended_at=None)
    soon = NOW + timedelta(minutes=2)
    assert (
        decide(run, [*before, unset], INTERRUPTED, policy=TRAIN_POLICY, now=soon).kind
        is DecisionKind.RELAUNCH
    )


def test_machines_that_lived_and_saved_nothing_are_a_reason_to_give_up():
    run = a_run(step=50, committed_at=NOW)
    late = NOW + timedelta(minutes=20)
    assert (
        decide(run, taken(20), INTERRUPTED, policy=TRAIN_POLICY, now=late).kind
        is DecisionKind.GIVE_UP
    )


def test_machines_that_went_silent_are_a_pattern_however_short_they_lived():
    run = a_run(step=50, committed_at=NOW)
    silent = Outcome(kind=OutcomeKind.LOST)
    tried = [replace(attempt, ended=silent) for attempt in taken(1)]
    assert decide(run, tried, silent, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.GIVE_UP


def test_fewer_than_three_attempts_are_not_a_pattern():
    tried = [an_attempt(number) for number in range(1, STALLED_ATTEMPTS)]
    assert (
        decide(a_run(), tried, INTERRUPTED, policy=TRAIN_POLICY, now=NOW).kind
        is DecisionKind.RELAUNCH
    )


# Failures of the trainer itself, with `retry`.


def failed(words="died", *, code=1, step=None):
    return Outcome(kind=OutcomeKind.FAILED, exit_code=code, reason=words, step=step)


def ended(*outcomes):
    """Return attempts with these outcomes, in this order."""
    return [
        replace(an_attempt(number), ended=outcome) for number, outcome in enumerate(outcomes, 1)
    ]


def retrying(codes=(1, 137), max_failures=3, **facts):
    return a_run(retry={"exit_codes": codes, "max_failures": max_failures}, **facts)


def after(run, *outcomes):
    return decide(run, ended(*outcomes), outcomes[-1], policy=TRAIN_POLICY, now=NOW)


def test_a_failure_that_is_to_be_retried_is_relaunched():
    decision = after(retrying(), failed(step=4))
    assert decision.kind is DecisionKind.RELAUNCH
    assert "exit code 1" in decision.reason
    assert "1 of 3" in decision.reason


@pytest.mark.parametrize("code", [1, 137, -9])
def test_a_killed_trainer_has_the_exit_code_of_a_shell(code):
    assert after(retrying(), failed(code=code)).kind is DecisionKind.RELAUNCH


@pytest.mark.parametrize("code", [2, 255, -15, None])
def test_any_other_failure_ends_the_run(code):
    decision = after(retrying(), failed("no such file", code=code))
    assert (decision.kind, decision.reason) == (DecisionKind.GIVE_UP, "no such file")


def test_failures_are_retried_as_often_as_the_request_says():
    failures = [failed(f"cause {word}", step=at) for at, word in enumerate("abc")]
    run = retrying(max_failures=2)
    assert after(run, *failures[:2]).kind is DecisionKind.RELAUNCH
    decision = after(run, *failures)
    assert decision.kind is DecisionKind.GIVE_UP
    assert "failure 3 of the trainer" in decision.reason
    assert "cause c" in decision.reason


def test_interruptions_and_refusals_do_not_count_as_failures():
    run = retrying(max_failures=2, progressed_attempt=6)
    between = [failed("a", step=1), *[INTERRUPTED] * 2, NO_CAPACITY, failed("b", step=2)]
    assert after(run, *between).kind is DecisionKind.RELAUNCH


def test_the_same_failure_twice_without_progress_ends_the_run_with_its_cause():
    decision = after(retrying(), failed("died at 12:01", step=4), failed("died at 13:30", step=4))
    assert decision.kind is DecisionKind.GIVE_UP
    assert decision.reason.startswith("the same failure twice without progress in between: died")


def test_the_same_failure_after_a_later_step_is_retried():
    assert after(retrying(), failed(step=4), failed(step=5)).kind is DecisionKind.RELAUNCH


@pytest.mark.parametrize(
    ("progressed", "kind"), [(1, "give_up"), (2, "relaunch"), (None, "give_up")]
)
def test_where_no_step_is_known_a_save_by_a_later_attempt_is_progress(progressed, kind):
    run = retrying(progressed_attempt=progressed)
    assert after(run, failed(), failed()).kind.value == kind


def test_another_failure_without_progress_is_retried_too():
    tried = [failed("a", step=4), failed("b", step=4), failed("c", step=4)]
    assert after(retrying(max_failures=9), *tried).kind is DecisionKind.RELAUNCH


def test_a_failure_between_two_that_are_the_same_does_not_hide_them():
    tried = [failed("a", step=4), failed("b", step=4), failed("a", step=4)]
    assert after(retrying(max_failures=9), *tried).kind is DecisionKind.GIVE_UP


def test_the_limits_of_every_launch_apply_to_retries():
    assert "max_attempts" in after(retrying(max_attempts=1), failed()).reason
    late = retrying(deadline="2029-01-01T00:00:00Z")
    assert "deadline" in after(late, failed()).reason


def full_disks(count):
    full = Outcome(kind=OutcomeKind.FAILED, reason="no space", exit_code=1, is_disk_full=True)
    return [replace(an_attempt(number), ended=full) for number in range(1, count + 1)], full


def test_a_full_disk_is_relaunched_with_a_larger_one_although_no_failure_is_retried():
    for count in range(1, MAX_DOUBLINGS + 1):
        tried, full = full_disks(count)
        decision = decide(a_run(), tried, full, policy=TRAIN_POLICY, now=NOW)
        assert decision.kind is DecisionKind.RELAUNCH
        assert decision.reason == "the disk was full; the next attempt has twice its size"


def test_a_disk_that_was_full_at_eight_times_its_size_ends_the_run():
    tried, full = full_disks(MAX_DOUBLINGS + 1)
    decision = decide(a_run(), tried, full, policy=TRAIN_POLICY, now=NOW)
    assert decision.kind is DecisionKind.GIVE_UP
    assert "the disk was full in 4 attempts, in the last one with 8 times its size: no space" in (
        decision.reason
    )


def test_a_full_disk_keeps_to_the_limits_and_uses_up_no_retry():
    tried, full = full_disks(2)
    decision = decide(a_run(max_attempts=2), tried, full, policy=TRAIN_POLICY, now=NOW)
    assert decision.kind is DecisionKind.GIVE_UP
    crashed = Outcome(kind=OutcomeKind.FAILED, reason="crash", exit_code=1)
    run = a_run(retry={"exit_codes": [1], "max_failures": 1})
    tried = [*tried, an_attempt(3)]
    assert decide(run, tried, crashed, policy=TRAIN_POLICY, now=NOW).kind is DecisionKind.RELAUNCH


def test_without_auto_resume_failures_are_still_retried():
    assert after(retrying(auto_resume=False), failed()).kind is DecisionKind.RELAUNCH


@given(
    outcomes=st.lists(
        st.sampled_from("abc").map(failed)
        | st.builds(failed, st.sampled_from("abc"), step=st.integers(0, 9))
        | st.just(INTERRUPTED),
        min_size=1,
        max_size=12,
    ),
    most=st.integers(1, 5),
)
def test_no_run_is_retried_more_often_than_it_may(outcomes, most):
    run = retrying(max_failures=most, progressed_attempt=99)
    failures = sum(outcome.kind is OutcomeKind.FAILED for outcome in outcomes)
    if outcomes[-1].kind is OutcomeKind.FAILED and failures > most:
        assert after(run, *outcomes).kind is DecisionKind.GIVE_UP


# The status for people.


def staged(number, stage, ended=None):
    return Attempt(run_id="run-1", number=number, stage=stage, ended=ended)


@pytest.mark.parametrize(
    ("tried", "status"),
    [
        ([], RunStatus.PENDING),
        ([staged(1, AttemptStage.LAUNCHING)], RunStatus.LAUNCHING),
        ([staged(1, AttemptStage.LAUNCHED)], RunStatus.LAUNCHING),
        ([staged(1, AttemptStage.RUNNING)], RunStatus.RUNNING),
        ([staged(1, AttemptStage.RUNNING), staged(2, AttemptStage.LAUNCHED)], RunStatus.RUNNING),
        ([staged(1, AttemptStage.ENDED, INTERRUPTED)], RunStatus.RECOVERING),
        ([staged(1, AttemptStage.ENDED, NO_CAPACITY)], RunStatus.LAUNCHING),
        ([staged(1, AttemptStage.ENDED, COMPLETED)], RunStatus.RUNNING),
        (
            [
                staged(1, AttemptStage.ENDED, INTERRUPTED),
                staged(2, AttemptStage.ENDED, COMPLETED),
            ],
            RunStatus.RUNNING,
        ),
    ],
)
def test_the_status_is_derived_from_the_attempts(tried, status):
    assert derive_status(a_run(), tried) is status


@given(tried=st.lists(st.sampled_from(AttemptStage)), ended=st.sampled_from(sorted(FINAL)))
def test_the_status_of_an_ended_run_is_its_end(tried, ended):
    staged_attempts = [staged(number, stage) for number, stage in enumerate(tried, start=1)]
    assert derive_status(replace(a_run(), ended=ended), staged_attempts) is ended


@pytest.mark.parametrize(
    ("step", "first_step", "given_step", "best_step", "has_news", "progress"),
    [
        (None, None, None, None, True, True),
        (None, None, None, None, False, False),
        (10, 10, None, None, True, True),  # the first step of the run
        (160, 160, 150, 150, True, True),
        (150, None, 150, 150, True, True),  # only unnumbered files changed
        (150, None, 150, 150, False, False),  # only a log grew
        (50, 10, 150, 150, True, False),  # started over
        (150, 10, 150, 150, True, False),
        (151, 10, 150, 150, True, True),
        (120, 110, 100, 150, True, True),  # resumed from an older checkpoint
        (120, 10, 100, 150, True, False),
        (100, 100, 100, 150, True, False),
    ],
)
def test_progress_is_a_step_beyond_the_given_one_or_beyond_the_best(
    step, first_step, given_step, best_step, has_news, progress
):
    assert progress is is_progress(
        step=step,
        first_step=first_step,
        given_step=given_step,
        best_step=best_step,
        has_news=has_news,
    )


@pytest.mark.parametrize(("progressed", "goes_on"), [(None, False), (1, False), (2, True)])
def test_attempts_that_only_save_what_was_there_before_do_not_count_as_progress(
    progressed, goes_on
):
    made = [an_attempt(number, launched=True, minute=1) for number in (1, 2, 3, 4)]
    run = replace(
        a_run(step=50, committed_at=NOW),
        save=40,
        best_step=150,
        progressed_attempt=progressed,
    )
    lost = Outcome(kind=OutcomeKind.LOST)
    decision = decide(run, made, lost, policy=TRAIN_POLICY, now=NOW)
    assert (decision.kind is DecisionKind.RELAUNCH) is goes_on
    assert ("saved no step beyond 150" in decision.reason) is not goes_on


def test_an_outcome_of_a_newer_version_ends_the_run():
    made = [an_attempt(1, launched=True, minute=1)]
    assert decide(
        a_run(), made, Outcome(kind=OutcomeKind.UNKNOWN), policy=TRAIN_POLICY, now=NOW
    ).kind is (DecisionKind.GIVE_UP)


# Another kind of run.

OUTCOMES_THAT_A_SERVICE_SURVIVES = [
    Outcome(kind=OutcomeKind.COMPLETED),
    Outcome(kind=OutcomeKind.FAILED, exit_code=1),
    INTERRUPTED,
    Outcome(kind=OutcomeKind.LOST),
    NO_CAPACITY,
]


@pytest.mark.parametrize("outcome", OUTCOMES_THAT_A_SERVICE_SURVIVES)
def test_a_service_is_restarted_beyond_every_limit_but_the_deadline(outcome):
    run = a_run(max_attempts=3, deadline="2031-01-01T00:00:00Z")
    tried = [an_attempt(number) for number in range(1, 9)]
    decision = decide(run, tried, outcome, policy=SERVICE, now=NOW)
    assert decision.kind is DecisionKind.RELAUNCH
    late = datetime(2031, 1, 1, tzinfo=timezone.utc)
    assert decide(run, tried, outcome, policy=SERVICE, now=late).kind is DecisionKind.GIVE_UP


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(kind=OutcomeKind.STOPPED), RunStatus.STOPPED),
        # The launch was refused permanently, so there is no exit code.
        (Outcome(kind=OutcomeKind.FAILED, reason="the launch was refused"), RunStatus.FAILED),
    ],
)
def test_a_service_ends_when_it_is_stopped_or_cannot_be_launched(outcome, status):
    assert decide(a_run(), [an_attempt(1)], outcome, policy=SERVICE, now=NOW).status is status


def never_ready(number, minutes=60):
    return replace(an_attempt(number), launched_at=NOW - timedelta(minutes=minutes))


def test_attempts_in_a_row_without_a_ready_server_end_the_run_with_the_last_reason():
    failure = Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="no model")
    tried = [never_ready(number) for number in range(1, STALLED_ATTEMPTS + 1)]

    def after_these(tried, outcome=failure):
        return decide(a_run(), tried, outcome, policy=policy_of(SERVE), now=NOW)

    assert after_these(tried[:-1]).kind is DecisionKind.RELAUNCH
    decision = after_these(tried)
    assert (decision.kind, decision.status) == (DecisionKind.GIVE_UP, RunStatus.FAILED)
    assert "had no ready server, the last one because no model" in decision.reason
    ready = change(tried[1], timeline={READY: NOW})
    assert after_these([tried[0], ready, tried[2]]).kind is DecisionKind.RELAUNCH
    unlaunched = an_attempt(2, launched=False)
    assert after_these([tried[0], unlaunched, tried[2]]).kind is DecisionKind.RELAUNCH
    # What EC2 took soon after its launch says nothing about the server.
    soon = [*tried[:-1], never_ready(3, minutes=2)]
    assert after_these(soon, INTERRUPTED).kind is DecisionKind.RELAUNCH


def test_a_kind_may_leave_failures_to_others_whatever_the_request_says():
    policy = replace(TRAIN_POLICY, retries_failures=False)
    run = retrying()
    assert decide(run, ended(failed()), failed(), policy=policy, now=NOW).kind is (
        DecisionKind.GIVE_UP
    )
    assert after(run, failed()).kind is DecisionKind.RELAUNCH


def test_a_run_that_builds_an_environment_ends_with_it_and_continues_after_an_interruption():
    policy = policy_of(ENVIRONMENT)
    done = decide(
        a_run(), [an_attempt(1)], Outcome(kind=OutcomeKind.COMPLETED), policy=policy, now=NOW
    )
    assert (done.status, done.reason) == (RunStatus.COMPLETED, "the environment is stored")
    taken = Outcome(kind=OutcomeKind.INTERRUPTED)
    assert decide(a_run(), ended(taken), taken, policy=policy, now=NOW).kind is (
        DecisionKind.RELAUNCH
    )
    failure = failed()
    assert decide(retrying(), ended(failure), failure, policy=policy, now=NOW).kind is (
        DecisionKind.GIVE_UP
    )


def test_a_kind_that_only_a_newer_version_knows_is_treated_like_training():
    assert policy_of("unknown") is policy_of(TRAIN)
