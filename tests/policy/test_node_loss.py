"""What follows for an attempt when one of its nodes is lost, with one and with two nodes."""

from dataclasses import replace

import pytest

from runctl.model.machine import Machine
from runctl.model.node import Node, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.node_loss import Consequence, Loss, on_node_loss, outcome_of_loss
from tests.control.fakes import START

POOL = Pool("m5.large", "us-east-1a", "spot")


def node(rank: int, stage: NodeStage = NodeStage.RUNNING, **values) -> Node:
    return Node(
        run_id="run-1", attempt=1, rank=rank, stage=stage, instance_id=f"i-{rank}", **values
    )


def attempt(*nodes: Node, **values) -> Attempt:
    known = {"stage": AttemptStage.RUNNING, **values}
    return Attempt(run_id="run-1", number=1, nodes=nodes, **known)


def consequence(*nodes: Node, lost: Node, loss: Loss, **values) -> Consequence:
    return on_node_loss(attempt(*nodes, **values), nodes, lost, loss=loss)


def test_the_only_node_drains_when_its_loss_is_announced():
    only = node(0)
    assert consequence(only, lost=only, loss=Loss.ANNOUNCED) == Consequence(drain=(only,))


def test_an_announced_node_whose_launch_is_not_recorded_drains():
    launching = replace(node(0, NodeStage.LAUNCHING), instance_id="")
    lost = replace(launching, instance_id="i-0")
    assert consequence(launching, lost=lost, loss=Loss.ANNOUNCED) == Consequence(drain=(lost,))


def test_nothing_is_left_that_could_report_when_the_only_node_is_gone():
    only = node(0)
    assert consequence(only, lost=only, loss=Loss.GONE) == Consequence(is_unreported=True)


@pytest.mark.parametrize("lost", [0, 1])
def test_all_nodes_drain_together_the_lost_one_first(lost):
    nodes = (node(0), node(1))
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.ANNOUNCED)
    assert answer == Consequence(drain=(nodes[lost], nodes[1 - lost]))


@pytest.mark.parametrize("lost", [0, 1])
def test_the_node_that_is_left_drains_and_reports(lost):
    nodes = (node(0), node(1))
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.GONE)
    assert answer == Consequence(drain=(nodes[1 - lost],))


@pytest.mark.parametrize("lost", [0, 1])
def test_the_last_of_two_nodes_to_go_leaves_nothing_that_could_report(lost):
    nodes = [node(0), node(1)]
    nodes[1 - lost] = replace(nodes[1 - lost], stage=NodeStage.GONE)
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.GONE)
    assert answer == Consequence(is_unreported=True)


def test_a_loss_that_is_reported_twice_has_the_same_consequence():
    gone, left = node(0, NodeStage.GONE), node(1)
    assert consequence(gone, left, lost=gone, loss=Loss.GONE) == Consequence(drain=(left,))


@pytest.mark.parametrize("loss", Loss)
def test_nothing_follows_for_an_attempt_that_has_ended(loss):
    nodes = (node(0), node(1))
    ended = Outcome(kind=OutcomeKind.COMPLETED)
    assert consequence(*nodes, lost=nodes[0], loss=loss, ended=ended) == Consequence()


def machine(reason: str) -> Machine:
    return Machine(instance_id="i-0", state="terminated", pool=POOL, reason=reason)


@pytest.mark.parametrize(
    ("noticed_at", "found", "kind", "reason"),
    [
        (None, None, OutcomeKind.LOST, "i-0 is terminated"),
        (None, machine("Client.X"), OutcomeKind.LOST, "i-0 is terminated (Client.X)"),
        (START, machine("Client.X"), OutcomeKind.INTERRUPTED, "i-0 is terminated (Client.X)"),
        (
            None,
            machine("Server.SpotInstanceTermination"),
            OutcomeKind.INTERRUPTED,
            "i-0 is terminated (Server.SpotInstanceTermination)",
        ),
    ],
)
def test_outcome_of_a_loss_says_whether_ec2_took_the_machine(noticed_at, found, kind, reason):
    lost = node(0, noticed_at=noticed_at)
    assert outcome_of_loss(lost, "terminated", found) == Outcome(kind=kind, reason=reason)
