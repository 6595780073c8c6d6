"""Whom a gang keeps for its next attempt, and how many machines it lacks."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.node import Node, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request_parsing import parse_request
from runctl.model.run import Attempt, AttemptStage, KeptNode, Run
from runctl.policy.gang import BEHIND, BOOT_FOR, REPAIR_FOR, SILENT_FOR, plan_gang, survivors

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
POOL = "g5.xlarge/us-east-1b/spot"
LOST = Outcome(kind=OutcomeKind.LOST)
MINUTE = timedelta(minutes=1)


def a_run(**options) -> Run:
    request = {"command": ["train"], "instance_types": ["g5.xlarge"], "nodes": 4, **options}
    return Run(
        run_id="run-1",
        request=parse_request(request),
        started_at=NOW,
        execution="run-1",
        execution_arn="arn",
    )


def node(rank: int, **values) -> Node:
    known = {"stage": NodeStage.RUNNING, "heartbeat_at": NOW, "pool": POOL, **values}
    return Node(run_id="run-1", attempt=1, rank=rank, instance_id=f"i-{rank}", **known)


def attempt(*nodes: Node, **values) -> Attempt:
    known = {"stage": AttemptStage.RUNNING, "has_token": True, "running_at": NOW - MINUTE, **values}
    return Attempt(run_id="run-1", number=1, nodes=nodes, **known)


def ended(*nodes: Node, outcome=LOST, at=NOW, **values) -> Attempt:
    return attempt(*nodes, stage=AttemptStage.ENDED, ended=outcome, ended_at=at, **values)


def ranks(*attempts: Attempt, now=NOW) -> list[int]:
    return [node.rank for node in survivors(attempts, now=now)]


def test_nobody_survives_before_the_first_launch():
    assert ranks() == []
    refused = Outcome(kind=OutcomeKind.NO_CAPACITY)
    waiting = Node(run_id="run-1", attempt=1)
    assert ranks(ended(waiting, outcome=refused)) == []


@pytest.mark.parametrize(
    "lost",
    [
        node(1, noticed_at=NOW),
        node(1, stage=NodeStage.GONE),
        node(1, heartbeat_at=NOW - BEHIND),
        replace(node(1), instance_id=""),
    ],
    ids=["noticed", "gone", "silent", "never launched"],
)
def test_a_node_that_is_lost_is_not_kept(lost):
    assert ranks(attempt(node(0), lost, node(2))) == [0, 2]


def test_nodes_that_the_attempt_ended_for_are_not_kept():
    outcome = replace(LOST, lost_ranks=(0, 3))
    assert ranks(ended(node(0), node(1), node(2), node(3), outcome=outcome)) == [1, 2]


def test_a_notice_that_an_earlier_attempt_recorded_counts():
    noticed = attempt(node(0), node(1, noticed_at=NOW))
    following = replace(attempt(node(0), node(1)), number=2)
    assert ranks(noticed, following) == [0]


def test_a_node_of_an_attempt_that_never_ran_is_not_judged_by_its_silence():
    silent = node(1, heartbeat_at=None, stage=NodeStage.LAUNCHED)
    old = NOW - timedelta(hours=1)
    waiting = attempt(node(0, heartbeat_at=old), silent, has_token=False, running_at=None)
    assert ranks(waiting) == [0, 1]


def test_a_machine_that_still_boots_is_kept_for_a_while():
    booting = node(1, heartbeat_at=None, stage=NodeStage.LAUNCHED)
    assert ranks(attempt(node(0), booting)) == [0, 1]
    assert ranks(attempt(node(0), booting, running_at=NOW - BOOT_FOR)) == [0]


def test_nobody_is_kept_if_all_are_silent():
    assert ranks(attempt(node(0), node(1)), now=NOW + SILENT_FOR) == []


def test_nobody_is_kept_after_an_attempt_that_was_lost_without_a_report():
    silent = [node(rank, heartbeat_at=None, stage=NodeStage.LAUNCHED) for rank in range(2)]
    # The token was stored a moment after the state machine began to wait.
    running_at = NOW - BOOT_FOR + timedelta(seconds=1)
    assert ranks(ended(*silent, running_at=running_at)) == []
    assert ranks(ended(node(0), silent[1], running_at=running_at)) == [0, 1]
    interrupted = Outcome(kind=OutcomeKind.INTERRUPTED)
    assert ranks(ended(*silent, outcome=interrupted, running_at=running_at)) == [0, 1]


def test_nobody_is_kept_after_a_full_disk_or_too_long():
    nodes = [node(0), node(1)]
    full = Outcome(kind=OutcomeKind.FAILED, exit_code=1, is_disk_full=True)
    assert ranks(ended(*nodes, outcome=full)) == []
    assert ranks(ended(*nodes, outcome=replace(full, is_disk_full=False))) == [0, 1]
    # They have reported all the time.
    assert ranks(ended(*nodes, at=NOW - REPAIR_FOR + MINUTE)) == [0, 1]
    assert ranks(ended(*nodes, at=NOW - REPAIR_FOR)) == []


def test_an_attempt_that_launched_nothing_does_not_hide_the_survivors():
    refused = Outcome(kind=OutcomeKind.NO_CAPACITY)
    waiting = replace(ended(Node(run_id="run-1", attempt=2), outcome=refused), number=2)
    assert ranks(ended(node(0), node(1)), waiting) == [0, 1]


def test_the_plan_lacks_what_was_lost_and_keeps_the_order_of_ranks():
    plan = plan_gang(a_run(spares=1), [attempt(*map(node, range(4)))], now=NOW, gone={"i-1"})
    assert plan.kept == tuple(KeptNode(f"i-{rank}", POOL) for rank in (0, 2, 3))
    assert (plan.missing, plan.needed, plan.total) == (2, 1, 5)
    assert str(plan.pool) == POOL
    assert not plan.can_train


def test_a_spare_takes_the_place_of_a_lost_node():
    plan = plan_gang(a_run(spares=1), [attempt(*map(node, range(5)))], now=NOW, gone={"i-0"})
    assert (plan.missing, plan.needed, plan.can_train) == (1, 0, True)


def test_fewer_nodes_suffice_if_the_request_allows_them():
    nodes = [node(0), node(1), node(2, noticed_at=NOW), node(3, noticed_at=NOW)]
    assert plan_gang(a_run(min_nodes=2), [attempt(*nodes)], now=NOW).can_train
    assert not plan_gang(a_run(min_nodes=3), [attempt(*nodes)], now=NOW).can_train


def test_the_repair_is_given_up_some_time_after_the_loss():
    lost_at = NOW - MINUTE
    assert plan_gang(a_run(), [ended(node(0), at=lost_at)], now=NOW).repair_until == (
        lost_at + REPAIR_FOR
    )
    noticed = attempt(node(0), node(1, noticed_at=lost_at))
    assert plan_gang(a_run(), [noticed], now=NOW).repair_until == lost_at + REPAIR_FOR
    assert plan_gang(a_run(), [], now=NOW).repair_until is None


@st.composite
def attempts(draw):
    instants = st.none() | st.integers(-700, 0).map(lambda ago: NOW + timedelta(seconds=ago))
    found = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        nodes = [
            Node(
                run_id="run-1",
                attempt=number,
                rank=rank,
                instance_id=f"i-{name}" if name else "",
                stage=draw(st.sampled_from(NodeStage)),
                heartbeat_at=draw(instants),
                noticed_at=draw(st.none() | instants),
            )
            for rank, name in enumerate(
                draw(st.lists(st.integers(0, 6), min_size=1, max_size=6, unique=True))
            )
        ]
        ended_at = draw(instants)
        outcome = Outcome(
            kind=draw(st.sampled_from(OutcomeKind)),
            lost_ranks=tuple(draw(st.lists(st.integers(0, 6), max_size=2))),
            is_disk_full=draw(st.booleans()),
        )
        found.append(
            Attempt(
                run_id="run-1",
                number=number,
                stage=draw(st.sampled_from(AttemptStage)),
                running_at=draw(instants),
                ended_at=ended_at,
                ended=None if ended_at is None else outcome,
                nodes=tuple(nodes),
            )
        )
    return found


@given(attempts=attempts(), nodes=st.integers(2, 4), spares=st.integers(0, 2))
def test_whom_a_gang_keeps_is_known_there_and_unharmed_in_every_attempt(attempts, nodes, spares):
    plan = plan_gang(a_run(nodes=nodes, spares=spares), attempts, now=NOW)
    kept = [each.instance_id for each in plan.kept]
    assert len(set(kept)) == len(kept)
    assert plan.total == nodes + spares
    assert plan.needed == max(nodes - len(kept), 0) <= plan.missing
    harmed = {
        found.instance_id
        for attempt in attempts
        for found in attempt.nodes
        if found.noticed_at or found.stage is NodeStage.GONE
    }
    assert not harmed & set(kept)
    launched = [attempt for attempt in attempts if attempt.was_launched]
    assert not kept or set(kept) <= set(launched[-1].instance_ids)


@given(attempts=attempts(), later=st.integers(0, 1200))
def test_a_node_that_is_lost_does_not_come_back(attempts, later):
    before = {found.instance_id for found in survivors(attempts, now=NOW)}
    after = {found.instance_id for found in survivors(attempts, now=NOW + timedelta(seconds=later))}
    assert after <= before
