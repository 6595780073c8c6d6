"""An attempt as the aggregate of its nodes, with one node, with two, and before it has any."""

from datetime import timedelta

from runctl.model import identity
from runctl.model.node import Node, NodeId, NodeProgress, NodeStage
from runctl.model.run import Attempt, AttemptStage
from tests.control.fakes import START

LATER = START + timedelta(minutes=5)


def node(rank: int, **values) -> Node:
    known = {"instance_id": f"i-{rank}", "stage": NodeStage.RUNNING, **values}
    return Node(run_id="run-1", attempt=2, rank=rank, **known)


def attempt(*nodes: Node) -> Attempt:
    return Attempt(run_id="run-1", number=2, stage=AttemptStage.RUNNING, nodes=nodes)


def test_attempt_shows_what_its_lowest_rank_reports():
    made = attempt(
        node(0, pool="a/b/spot", progress=NodeProgress(phase="train", step=7, warning="slow")),
        node(1, pool="c/d/spot", progress=NodeProgress(phase="restore", step=5)),
    )
    assert (made.phase, made.progress_step, made.warning) == ("train", 7, "slow")
    assert made.pool == "a/b/spot"
    assert made.instance_ids == ("i-0", "i-1")


def test_the_next_rank_leads_when_the_lead_is_gone():
    left = node(1, progress=NodeProgress(phase="drain"))
    made = attempt(node(0, stage=NodeStage.GONE, progress=NodeProgress(phase="train")), left)
    assert made.lead == left
    assert made.phase == "drain"


def test_the_first_node_leads_an_attempt_whose_nodes_are_all_gone():
    gone = [node(rank, stage=NodeStage.GONE) for rank in (0, 1)]
    assert attempt(*gone).lead == gone[0]


def test_attempt_has_the_last_heartbeat_and_the_first_notice_of_its_nodes():
    made = attempt(
        node(0, heartbeat_at=START, noticed_at=LATER), node(1, heartbeat_at=LATER, noticed_at=START)
    )
    assert (made.heartbeat_at, made.noticed_at) == (LATER, START)


def test_notice_of_a_machine_is_that_of_its_node():
    made = attempt(node(0, noticed_at=START), node(1))
    assert made.noticed_at_on("i-0") == START
    assert made.noticed_at_on("i-1") is None
    assert made.noticed_at_on("i-unrecorded") == START


def test_attempt_without_nodes_shows_nothing():
    made = attempt()
    assert (made.lead, made.pool, made.heartbeat_at, made.phase) == (None, "", None, "")
    assert not made.was_launched


def test_names_of_nodes_differ_by_rank_and_sort_within_their_attempt():
    nodes = [NodeId("run-1", attempt, rank) for attempt in (1, 2) for rank in (0, 1, 12)]
    for named in (
        identity.log_stream,
        identity.partial_key,
        identity.metrics_prefix,
        identity.boot_log_key,
    ):
        names = [named(*each) for each in nodes]
        assert names == sorted(set(names))
    keys = [identity.node_key(*each)["sk"] for each in nodes]
    keys.insert(0, identity.attempt_key("run-1", 1)["sk"])
    keys.insert(4, identity.attempt_key("run-1", 2)["sk"])
    assert keys == sorted(keys)


def test_logs_of_the_first_rank_may_be_where_older_versions_wrote_them():
    assert identity.log_streams("run-1", 3, 0) == ("run-1/0003-000", "run-1/0003")
    assert identity.log_streams("run-1", 3, 1) == ("run-1/0003-001",)


def test_metrics_of_an_attempt_are_those_of_its_first_rank():
    keys = [f"{identity.metrics_prefix('run-1', 12, rank)}7.jsonl" for rank in (0, 1, 10)]
    assert [identity.is_of_first_rank(key) for key in keys] == [True, False, False]
    assert identity.is_of_first_rank("runs/run-1/metrics/0001/7.jsonl")  # of an older version
