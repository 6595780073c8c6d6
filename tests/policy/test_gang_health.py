"""The verdicts on a gang: who is lost, hangs, has failed or is slow."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.gang import GangReport, NodeEnd, RankPulse
from runctl.model.node import Node, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.policy.gang_facts import (
    BOOT,
    KEPT_BOOT,
    METAL_BOOT,
    SILENT,
    Completed,
    Failed,
    Hung,
    Lost,
    NodeFacts,
    Noticed,
    NotJoined,
    Straggler,
)
from runctl.policy.gang_health import FAILURE_WAIT, JOIN, NOBODY_JOINED, find_lead, judge
from runctl.policy.gang_outcome import outcome_of_gang
from runctl.policy.gang_pace import BUSY, FIRST_STEP, HANG, find_straggler

START = datetime(2026, 5, 1, tzinfo=timezone.utc)


def facts(rank, *, end=None, ranks=(), heard=True, pool="", noticed=False, gone=False, **known):
    node = Node(
        run_id="run-1",
        attempt=1,
        rank=rank,
        instance_id=f"i-{rank}",
        pool=pool,
        stage=NodeStage.GONE if gone else NodeStage.RUNNING,
        heartbeat_at=START if heard else None,
        noticed_at=START if noticed else None,
        progress=NodeProgress(gang=GangReport(ranks=tuple(ranks), ended=end)),
    )
    return NodeFacts(node=node, **known)


def end(kind, *, seconds=0.0, code=None, reason="", stored=True, stopped=False, lost=()):
    return NodeEnd(
        at=START + timedelta(seconds=seconds),
        outcome=Outcome(kind=kind, exit_code=code, reason=reason, lost_ranks=lost),
        was_stopped=stopped,
        is_stored=stored,
    )


DONE = end(OutcomeKind.COMPLETED, code=0)


def failed(seconds=0.0, reason="boom", **more):
    return end(OutcomeKind.FAILED, code=1, seconds=seconds, reason=reason, **more)


def gang(*changes, **known):
    """Return three nodes at work; each of `changes` replaces one."""
    nodes = {rank: facts(rank, is_own=rank == 0, **known) for rank in range(3)}
    return tuple({**nodes, **{change.rank: change for change in changes}}.values())


def test_a_gang_at_work_has_no_verdict():
    assert judge(gang()) is None


# Silence ----------------------------------------------------------------------------------------


def test_a_silent_node_is_lost_and_named():
    verdict = judge(gang(facts(2, age=11)))
    assert verdict == Lost(reason="node 2 (i-2) has been silent for 11 s", ranks=(2,))


def test_two_nodes_that_are_gone_are_lost_together():
    verdict = judge(gang(facts(1, gone=True), facts(2, gone=True)))
    assert verdict == Lost(reason="node 1 (i-1) is gone; node 2 (i-2) is gone", ranks=(1, 2))


def test_an_agent_is_never_silent_to_itself():
    assert judge(gang(facts(0, is_own=True, age=1000))) is None


@pytest.mark.parametrize(
    ("known", "limit"),
    [
        ({}, BOOT),
        ({"pool": "m5.large/us-east-1a/spot"}, BOOT),
        ({"pool": "m5.metal/us-east-1a/spot"}, METAL_BOOT),
        ({"is_kept": True}, KEPT_BOOT),
    ],
)
def test_a_node_that_never_reports_is_lost_after_the_time_of_a_boot(known, limit):
    assert judge(gang(facts(1, heard=False, age=limit - 1, **known))) is None
    verdict = judge(gang(facts(1, heard=False, age=limit, **known)))
    assert isinstance(verdict, Lost)
    assert verdict.reason == f"node 1 (i-1) has not reported in {limit / 60:.0f} minutes"


def test_a_node_that_has_completed_is_not_missed():
    assert judge(gang(facts(2, end=DONE, age=60))) is None
    not_stored = end(OutcomeKind.COMPLETED, stored=False)
    assert isinstance(judge(gang(facts(2, end=not_stored, age=60))), Lost)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans(), st.booleans())
def test_more_silence_never_revives_a_node(age, more, heard, kept):
    before = judge(gang(facts(1, age=age, heard=heard, is_kept=kept)))
    after = judge(gang(facts(1, age=age + more, heard=heard, is_kept=kept)))
    if isinstance(before, Lost):
        assert isinstance(after, Lost)
        assert set(before.ranks) <= set(after.ranks)


def test_the_lead_is_the_lowest_rank_that_reports():
    assert find_lead(gang()) == 0
    others = [facts(0, age=SILENT), facts(1), facts(2, is_own=True)]
    assert find_lead(others) == 1
    booting = [facts(0, heard=False), facts(1, gone=True), facts(2, is_own=True)]
    assert find_lead(booting) == 2
    assert find_lead([]) is None


# Notices and ends -------------------------------------------------------------------------------


def test_a_noticed_node_makes_all_save():
    verdict = judge(gang(facts(1, noticed=True)))
    assert verdict == Noticed(reason="EC2 takes node 1 (i-1)", ranks=(1,))


def test_the_loss_of_another_node_precedes_a_notice():
    assert isinstance(judge(gang(facts(1, noticed=True), facts(2, age=SILENT))), Lost)


def test_a_node_whose_agent_was_stopped_makes_all_save():
    stopped = end(OutcomeKind.INTERRUPTED, reason="shutting down", stopped=True, lost=(1,))
    verdict = judge(gang(facts(1, end=stopped)))
    assert isinstance(verdict, Noticed)
    assert (verdict.reason, verdict.ranks) == ("node 1 (i-1): shutting down", (1,))


def test_a_gang_completes_when_all_nodes_have_and_everything_is_stored():
    nodes = gang(end=DONE)
    assert judge(nodes) == Completed()
    assert judge([*nodes[:2], facts(2, end=end(OutcomeKind.COMPLETED, stored=False))]) is None
    assert judge([*nodes[:2], facts(2)]) is None
    # A notice that comes after that changes nothing.
    assert judge([*nodes[:2], facts(2, end=DONE, noticed=True, gone=True)]) == Completed()


def test_the_first_failure_is_the_cause():
    verdict = judge(gang(*(facts(rank, end=failed(5 - rank), ended_for=1) for rank in range(3))))
    assert isinstance(verdict, Failed)
    assert (verdict.reason, verdict.ranks) == ("node 2 (i-2): boom", (2,))


@pytest.mark.parametrize("later", [{"reason": "Connection closed by peer"}, {"stopped": True}])
def test_what_follows_from_another_failure_is_not_the_cause(later):
    cause = facts(0, end=failed(3.0, reason="KeyError"), ended_for=1)
    others = [facts(rank, end=failed(0.0, **later), ended_for=1) for rank in (1, 2)]
    verdict = judge([cause, *others])
    assert isinstance(verdict, Failed)
    assert verdict.ranks == (0,)


def test_a_failure_waits_for_the_loss_that_would_explain_it():
    def after(seconds, **third):
        ends = [facts(rank, end=failed(), ended_for=seconds) for rank in (0, 1)]
        return judge([*ends, facts(2, **third)])

    assert after(FAILURE_WAIT - 1) is None
    assert isinstance(after(FAILURE_WAIT), Failed)
    # It may turn out to be lost in a moment.
    assert after(FAILURE_WAIT, age=SILENT - 1) is None
    assert isinstance(after(FAILURE_WAIT, age=SILENT), Lost)
    # A node that still boots explains nothing.
    assert isinstance(after(FAILURE_WAIT, age=100, heard=False), Failed)


# The rendezvous ---------------------------------------------------------------------------------


def started(rank, seconds, **known):
    return facts(rank, running_for=seconds, **known)


def test_a_node_whose_ranks_do_not_join_is_named():
    there = {"launched_after": 2.0, "joined_after": 5.0}

    def after(seconds):
        third = started(2, seconds, launched_after=3.0)
        return judge([started(0, seconds, **there), started(1, seconds, **there), third])

    assert after(JOIN + 9) is None
    verdict = after(JOIN + 10)
    assert isinstance(verdict, NotJoined)
    assert verdict.ranks == (2,)
    assert verdict.reason.startswith("node 2 (i-2) did not join the rendezvous in 40 s")


def test_a_node_whose_launcher_hangs_is_named():
    nodes = [started(0, 35, launched_after=2), started(1, 35, launched_after=2), started(2, 35)]
    verdict = judge(nodes)
    assert isinstance(verdict, NotJoined)
    assert verdict.ranks == (2,)


def test_a_node_may_have_joined_since_its_last_report():
    there = {"launched_after": 2.0, "joined_after": 5.0}

    def after(seconds):
        third = started(2, seconds, launched_after=3.0, age=6.0)
        return judge([started(0, seconds, **there), started(1, seconds, **there), third])

    assert after(JOIN + 10 + 5) is None
    assert isinstance(after(JOIN + 10 + 6), NotJoined)


def test_a_node_may_have_found_its_launcher_since_its_last_report():
    def after(seconds):
        third = started(2, seconds, age=6.0)
        return judge([*(started(rank, seconds, launched_after=5.0) for rank in (0, 1)), third])

    assert after(JOIN + 10 + 5) is None
    assert isinstance(after(JOIN + 10 + 6), NotJoined)


def test_a_gang_is_given_up_by_what_each_node_has_reported():
    def after(seconds):
        nodes = [started(rank, seconds, launched_after=2) for rank in (0, 1)]
        return judge([*nodes, started(2, seconds, launched_after=2, age=6.0)])

    assert after(NOBODY_JOINED + 5) is None
    assert isinstance(after(NOBODY_JOINED + 6), Failed)


def test_a_script_that_never_joins_fails_with_the_remedy():
    def after(seconds, **options):
        return judge([started(rank, seconds, launched_after=2) for rank in range(3)], **options)

    assert after(NOBODY_JOINED - 1) is None
    verdict = after(NOBODY_JOINED)
    assert isinstance(verdict, Failed)
    assert "init_process_group" in verdict.reason
    assert after(NOBODY_JOINED, must_join=False) is None


# Hangs ------------------------------------------------------------------------------------------


def pulse(entered, left, *, idle=0.0, still=0.0, suspended=False):
    return RankPulse(
        entered=entered,
        left=left,
        idle_seconds=idle,
        still_seconds=still,
        is_suspended=suspended,
        has_joined=True,
    )


def ranks_of(*pulses, step=1.0):
    return [facts(rank, ranks=[it], step_seconds=step) for rank, it in enumerate(pulses)]


WAITING = pulse(8, 7, idle=HANG + 2, still=HANG + 2)


def test_a_rank_that_keeps_the_others_waiting_hangs():
    behind = pulse(7, 7, idle=HANG + 3, still=HANG + 3)
    verdict = judge(ranks_of(WAITING, WAITING, behind))
    assert verdict == Hung(
        reason="node 2 (i-2) hangs: the other ranks have waited for 24 s", ranks=(2,)
    )


def test_no_rank_hangs_before_two_of_its_steps_and_22_seconds():
    behind = pulse(7, 7, idle=HANG + 3, still=HANG + 3)
    assert judge(ranks_of(WAITING, WAITING, behind, step=10.0)) is None


def test_a_rank_that_computes_may_keep_the_others_waiting():
    def waited(seconds):
        waits = pulse(8, 7, idle=seconds, still=seconds)
        return judge(ranks_of(waits, waits, pulse(7, 7, idle=seconds, still=0.5)))

    assert waited(HANG + 100) is None
    verdict = waited(BUSY)
    assert isinstance(verdict, Hung)
    assert verdict.ranks == (2,)


def test_a_rank_that_has_not_left_the_agreement_that_others_have_left_hangs():
    gone_on = pulse(8, 8, idle=HANG + 2, still=0.0)
    verdict = judge(ranks_of(gone_on, WAITING, gone_on))
    assert isinstance(verdict, Hung)
    assert verdict.ranks == (1,)


def test_a_suspended_rank_hangs_wherever_it_is():
    computing = pulse(8, 8, idle=HANG + 2, still=0.0)
    stopped = pulse(8, 8, idle=HANG + 2, still=0.0, suspended=True)
    verdict = judge(ranks_of(computing, stopped, computing))
    assert isinstance(verdict, Hung)
    assert verdict.ranks == (1,)


def test_ranks_that_all_wait_for_each_other_name_no_culprit():
    verdict = judge(ranks_of(WAITING, WAITING, WAITING))
    assert isinstance(verdict, Hung)
    assert verdict.ranks == ()
    assert all(f"node {rank} (i-{rank})" in verdict.reason for rank in range(3))


def test_ranks_that_all_compute_may_be_evaluating():
    def for_seconds(seconds, still):
        return judge(ranks_of(*[pulse(8, 8, idle=seconds, still=still)] * 3))

    assert for_seconds(HANG + 500, 0.0) is None
    assert isinstance(for_seconds(BUSY, 0.0), Hung)
    assert isinstance(for_seconds(HANG + 500, HANG + 500), Hung)


def test_a_first_step_may_take_long():
    behind = pulse(0, 0, idle=FIRST_STEP - 1, still=FIRST_STEP - 1)
    waits = pulse(1, 0, idle=FIRST_STEP - 1)
    assert judge(ranks_of(waits, waits, behind, step=None)) is None
    behind = pulse(0, 0, idle=FIRST_STEP, still=FIRST_STEP)
    verdict = judge(ranks_of(replace(waits, idle_seconds=FIRST_STEP), waits, behind, step=None))
    assert verdict is None  # the second rank has waited a second less
    waits = replace(waits, idle_seconds=FIRST_STEP)
    assert isinstance(judge(ranks_of(waits, waits, behind, step=None)), Hung)


def test_programs_without_the_helper_are_not_judged_by_their_pace():
    assert judge(ranks_of(*[pulse(0, 0, idle=1e6, still=1e6)] * 3)) is None


def test_ranks_that_wait_for_a_program_that_has_ended_name_the_mistake():
    nodes = [*ranks_of(WAITING, WAITING), facts(2, end=DONE)]
    verdict = judge(nodes)
    assert isinstance(verdict, Failed)
    assert verdict.ranks == (2,)
    assert "the same number of steps" in verdict.reason


# Stragglers -------------------------------------------------------------------------------------


def test_a_node_that_computes_much_longer_is_a_straggler():
    nodes = [facts(rank, busy_step=seconds) for rank, seconds in enumerate((1.0, 1.1, 2.0))]
    found = find_straggler(nodes)
    assert isinstance(found, Straggler)
    assert found.ranks == (2,)
    assert found.reason == (
        "node 2 (i-2) computes 2.00 s for a step, 1.8 times the 1.10 s of the others"
    )
    assert judge(nodes) is None
    assert judge(nodes, replaces_stragglers=True) == found


def test_a_node_that_costs_the_gang_almost_nothing_is_no_straggler():
    busy = (0.001, 0.001, 0.002)
    nodes = [facts(rank, busy_step=it, step_seconds=0.2) for rank, it in enumerate(busy)]
    assert find_straggler(nodes) is None
    nodes = [facts(rank, busy_step=100 * it, step_seconds=0.2) for rank, it in enumerate(busy)]
    assert find_straggler(nodes).ranks == (2,)


@pytest.mark.parametrize("busy", [(1.0, 1.1, 1.5), (1.0, None, 2.0), (0.0, 0.0, 1.0), (2.0,)])
def test_nodes_of_similar_or_unknown_pace_are_no_stragglers(busy):
    assert find_straggler([facts(rank, busy_step=it) for rank, it in enumerate(busy)]) is None


# Totality ---------------------------------------------------------------------------------------

seconds = st.floats(0, 1e5)
maybe = st.none() | seconds
pulses = st.builds(
    RankPulse,
    entered=st.integers(0, 3),
    left=st.integers(0, 3),
    busy_seconds=seconds,
    idle_seconds=seconds,
    has_joined=st.booleans(),
    still_seconds=seconds,
    is_suspended=st.booleans(),
)
ends = st.none() | st.builds(
    end,
    st.sampled_from(OutcomeKind),
    seconds=st.floats(0, 100),
    reason=st.sampled_from(["", "boom", "Broken pipe"]),
    stored=st.booleans(),
    stopped=st.booleans(),
)


@st.composite
def any_gang(draw):
    count = draw(st.integers(0, 4))
    return [
        facts(
            rank,
            end=draw(ends),
            ranks=draw(st.lists(pulses, max_size=2)),
            heard=draw(st.booleans()),
            pool=draw(st.sampled_from(["", "nonsense", "m5.metal/z/spot"])),
            noticed=draw(st.booleans()),
            gone=draw(st.booleans()),
            is_own=rank == 0,
            age=draw(seconds),
            running_for=draw(maybe),
            launched_after=draw(maybe),
            joined_after=draw(maybe),
            ended_for=draw(maybe),
            step_seconds=draw(maybe),
            busy_step=draw(maybe),
        )
        for rank in range(count)
    ]


@given(any_gang(), st.booleans(), st.booleans(), st.randoms())
def test_every_gang_has_one_verdict(nodes, joins, replaces, order):
    verdict = judge(nodes, must_join=joins, replaces_stragglers=replaces)
    assert verdict == judge(nodes, must_join=joins, replaces_stragglers=replaces)
    if verdict is not None:
        assert set(verdict.ranks) <= {it.rank for it in nodes}
        assert verdict.reason or isinstance(verdict, Completed)
    own = Outcome(kind=order.choice(list(OutcomeKind)), reason="own")
    outcome = outcome_of_gang(verdict, own)
    assert outcome is not None
    assert set(outcome.lost_ranks) <= {it.rank for it in nodes}


# The outcome ------------------------------------------------------------------------------------

OWN = Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="Connection closed by peer", step=7)


@pytest.mark.parametrize(
    ("verdict", "kind", "lost"),
    [
        (Lost(reason="r", ranks=(2,)), OutcomeKind.LOST, (2,)),
        (Hung(reason="r"), OutcomeKind.LOST, ()),
        (NotJoined(reason="r", ranks=(1,)), OutcomeKind.LOST, (1,)),
        (Noticed(reason="r", ranks=(1,)), OutcomeKind.INTERRUPTED, ()),
        (Straggler(reason="r", ranks=(1,)), OutcomeKind.INTERRUPTED, (1,)),
        (
            Noticed(reason="r", outcome=Outcome(kind=OutcomeKind.STOPPED)),
            OutcomeKind.STOPPED,
            (),
        ),
    ],
)
def test_the_verdict_explains_a_failure_that_followed_from_it(verdict, kind, lost):
    outcome = outcome_of_gang(verdict, OWN)
    assert outcome == Outcome(kind=kind, reason="r", exit_code=1, step=7, lost_ranks=lost)


def test_the_failure_of_another_node_is_the_same_failure_on_whichever_node():
    cause = Outcome(kind=OutcomeKind.FAILED, exit_code=3, reason="boom", is_disk_full=True)
    first = outcome_of_gang(Failed(reason="node 1 (i-1): boom", outcome=cause), OWN)
    second = outcome_of_gang(Failed(reason="node 2 (i-2): boom", outcome=cause), OWN)
    assert first is not None
    assert second is not None
    assert first.failure_id == second.failure_id == cause.failure_id
    assert (first.kind, first.exit_code, first.step) == (OutcomeKind.FAILED, 3, 7)
    assert first.is_disk_full


def test_own_outcome_counts_without_a_verdict_and_after_a_stop_by_the_user():
    assert outcome_of_gang(None, OWN) is OWN
    assert outcome_of_gang(Lost(reason="r", ranks=(1,)), None) is None
    stopped = Outcome(kind=OutcomeKind.STOPPED)
    assert outcome_of_gang(Lost(reason="r", ranks=(1,)), stopped) is stopped
    assert outcome_of_gang(Completed(), OWN).kind is OutcomeKind.COMPLETED
