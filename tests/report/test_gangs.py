"""The report of a gang: its nodes, the machine time of each, and words about them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.model.gang import GangReport, NodeEnd, RankPulse
from runctl.model.node import Node, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage, KeptNode, Launched
from runctl.report.descriptions import attempt_reason, attempt_text
from runctl.report.gang_descriptions import nodes_text
from runctl.report.machine_time import machine_times
from runctl.report.timeline import AttemptEntry, timeline_of

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
POOL = "g4dn.xlarge/us-east-1a/spot"


def at(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def gang(number: int, instances: str, *, kept: str = "", **values: object) -> Attempt:
    """Return an attempt with a node on each instance, which is named by a letter."""
    nodes = tuple(
        Node(
            run_id="ddp",
            attempt=number,
            rank=rank,
            stage=NodeStage.RUNNING,
            instance_id=f"i-{name}",
            pool=POOL,
            progress=NodeProgress(phase="train", gang=GangReport(is_ready=True, processes=1)),
        )
        for rank, name in enumerate(instances)
    )
    source = Launched("{}", kept=tuple(KeptNode(f"i-{name}", POOL) for name in kept))
    attempt = Attempt(
        run_id="ddp", number=number, stage=AttemptStage.RUNNING, source=source, nodes=nodes
    )
    return replace(attempt, **values)


def with_node(attempt: Attempt, rank: int, **values: object) -> Attempt:
    nodes = [replace(node, **values) if node.rank == rank else node for node in attempt.nodes]
    return replace(attempt, nodes=tuple(nodes))


def entry(attempt: Attempt, *, world: int = 3) -> AttemptEntry:
    return timeline_of([attempt], now=at(0), world=world)[0]


def ended(
    kind: OutcomeKind, *, exit_code: int | None = None, was_stopped: bool = False
) -> NodeProgress:
    end = NodeEnd(at=NOW, outcome=Outcome(kind=kind, exit_code=exit_code), was_stopped=was_stopped)
    return NodeProgress(gang=GangReport(ended=end))


LOST = Outcome(kind=OutcomeKind.LOST, reason="a node is silent", lost_ranks=(2,))


def test_an_attempt_costs_the_time_of_each_of_its_machines():
    (time,) = machine_times([gang(1, "abc", launched_at=at(-10))], now=at(0))
    assert time == {"spot": timedelta(minutes=30)}


def test_machines_that_are_kept_are_counted_between_two_attempts_and_once():
    first = gang(1, "abc", launched_at=at(-60), ended_at=at(-50), ended=LOST)
    second = gang(2, "abz", kept="ab", launched_at=at(-48))
    times = machine_times([first, second], now=at(0))
    assert times[0] == {"spot": timedelta(minutes=30)}
    # Two that were kept since the end of the first attempt, and one from its launch.
    assert times[1] == {"spot": timedelta(minutes=50 + 50 + 48)}


def test_survivors_are_counted_while_a_replacement_is_requested():
    first = gang(1, "abc", launched_at=at(-60), ended_at=at(-50), ended=LOST)
    waiting = gang(2, "", kept="ab", stage=AttemptStage.LAUNCHING)
    times = machine_times([first, waiting], now=at(0))
    assert times[1] == {"spot": timedelta(minutes=100)}


def test_survivors_of_an_attempt_that_still_drains_are_counted_once():
    first = gang(1, "ab", launched_at=at(-10))
    second = gang(2, "ac", kept="a", launched_at=at(-4))
    times = machine_times([first, second], now=at(0))
    assert times == [{"spot": timedelta(minutes=20)}, {"spot": timedelta(minutes=4)}]


def test_a_machine_that_was_lost_early_is_counted_until_its_last_heartbeat():
    attempt = gang(1, "abc", launched_at=at(-10))
    lost = with_node(attempt, 2, stage=NodeStage.GONE, heartbeat_at=at(-4))
    assert machine_times([lost], now=at(0)) == [{"spot": timedelta(minutes=26)}]


def test_machine_time_is_divided_by_market():
    mixed = with_node(gang(1, "ab", launched_at=at(-5)), 1, pool="m5.large/us-east-1a/on-demand")
    five = timedelta(minutes=5)
    assert machine_times([mixed], now=at(0)) == [{"spot": five, "on-demand": five}]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "train"),
        ({"instance_id": "", "stage": NodeStage.LAUNCHING}, "requested"),
        ({"progress": NodeProgress(gang=GangReport())}, "booting"),
        ({"progress": NodeProgress(phase="wait", gang=GangReport(is_ready=True))}, "ready"),
        ({"progress": NodeProgress(phase="wait", gang=GangReport())}, "wait"),
        ({"stage": NodeStage.GONE}, "gone"),
        (
            {"progress": ended(OutcomeKind.FAILED, exit_code=3)},
            "exit code 3",
        ),
        (
            {"progress": ended(OutcomeKind.COMPLETED, exit_code=0)},
            "done",
        ),
        (
            {"progress": ended(OutcomeKind.STOPPED, was_stopped=True)},
            "stopped",
        ),
    ],
)
def test_a_node_has_a_state(changes, state):
    assert entry(with_node(gang(1, "abc"), 1, **changes)).nodes[1].state == state


def test_nodes_beyond_those_that_train_are_spares():
    waiting = NodeProgress(phase="wait", gang=GangReport(is_ready=True))
    nodes = entry(with_node(gang(1, "abcd"), 3, progress=waiting)).nodes
    assert [node.is_spare for node in nodes] == [False, False, False, True]
    assert nodes[3].state == "spare"


def test_a_lost_node_is_named():
    ended = entry(gang(1, "abc", ended=LOST))
    assert [node.state for node in ended.nodes] == ["train", "train", "lost"]
    assert attempt_text(ended, kind="train") == "lost: a node is silent (lost: node 2 on i-c)"
    named = replace(LOST, reason="node 2 (i-c) is silent")
    assert attempt_reason(entry(gang(1, "abc", ended=named))) == "node 2 (i-c) is silent"


def test_the_computing_time_of_a_node_is_that_of_its_slowest_process():
    pulses = (RankPulse(entered=10, busy_seconds=5), RankPulse(entered=10, busy_seconds=20))
    progress = NodeProgress(phase="train", gang=GangReport(ranks=pulses))
    node = entry(with_node(gang(1, "ab"), 1, progress=progress)).nodes[1]
    assert (node.busy_seconds, node.as_document()["busy_seconds"]) == (20, 20)
    assert entry(gang(1, "ab")).nodes[1].busy_seconds is None


def test_the_states_of_a_gang_say_how_many_nodes_it_has():
    started = {"started": NOW}
    attempt = gang(1, "abc")
    progress = replace(attempt.nodes[0].progress, timeline=started)
    training = with_node(attempt, 0, progress=progress)
    assert attempt_text(entry(training), kind="train") == (
        f"trains on 3 nodes in {POOL} from the beginning"
    )
    assert f"on 2 nodes and 1 spare in {POOL}" in attempt_text(
        entry(training, world=2), kind="train"
    )
    noticed = with_node(training, 1, noticed_at=NOW)
    assert attempt_text(entry(noticed), kind="train") == (
        f"has an interruption notice for node 1 on 3 nodes in {POOL} and drains"
    )


def test_a_repair_says_what_it_keeps_and_what_it_requests():
    def text(attempt: Attempt, plan: str = "") -> str:
        source = replace(attempt.source, plan=plan)
        launching = replace(attempt, source=source, stage=AttemptStage.LAUNCHING)
        return attempt_text(entry(launching), kind="train")

    repair = gang(2, "abc", kept="ab")
    assert text(repair) == "keeps 2 instances and requests 1 instance"
    assert text(repair, f"1 of 3 machines of {POOL}") == (
        f"keeps 2 instances and requests 1 of 3 machines of {POOL}"
    )
    all_stay = gang(2, "abc", kept="abc")
    assert text(all_stay, "all 3 machines go on") == "keeps 3 instances: all 3 machines go on"
    assert text(gang(1, "abc")) == "requests 3 instances"
    assert text(gang(1, "abc"), f"3 machines of {POOL}") == f"requests 3 machines of {POOL}"


def test_warnings_name_the_node_once():
    full = NodeProgress(phase="train", warning="the disk is almost full")
    slow = NodeProgress(phase="train", warning="node 1 (i-b) computes 2.00 s for a step")
    attempt = with_node(gang(1, "abc"), 2, progress=full)
    assert entry(with_node(attempt, 0, progress=slow)).warnings == (
        "node 1 (i-b) computes 2.00 s for a step",
        "node 2: the disk is almost full",
    )


def test_only_a_gang_has_nodes_in_its_document():
    assert [node["rank"] for node in entry(gang(1, "abc")).as_document()["nodes"]] == [0, 1, 2]
    single = gang(1, "a")
    alone = replace(single, nodes=(replace(single.nodes[0], progress=NodeProgress()),))
    assert "nodes" not in entry(alone).as_document()


def test_the_nodes_of_a_request_are_described_with_their_limits():
    assert nodes_text({"nodes": 4}) == "4"
    assert nodes_text(
        {"nodes": 4, "min_nodes": 2, "spares": 1, "processes_per_node": 8}
    ) == "4, at least 2 and 1 spare with 8 processes each"  # fmt: skip
    assert nodes_text({"nodes": 1}) == nodes_text({}) == ""
