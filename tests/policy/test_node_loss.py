"""What follows for an attempt when one of its nodes is lost, with one and with several nodes."""

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


def consequence(*nodes: Node, lost: Node, loss: Loss, is_spare=False, **values) -> Consequence:
    return on_node_loss(attempt(*nodes, **values), lost, loss=loss, is_spare=is_spare)


def test_the_only_node_drains_when_its_loss_is_announced():
    only = node(0)
    answer = consequence(only, lost=only, loss=Loss.ANNOUNCED)
    assert answer == Consequence(drain=(only,), ends=True)


def test_an_announced_node_whose_launch_is_not_recorded_drains():
    launching = replace(node(0, NodeStage.LAUNCHING), instance_id="")
    lost = replace(launching, instance_id="i-0")
    answer = consequence(launching, lost=lost, loss=Loss.ANNOUNCED)
    assert answer == Consequence(drain=(lost,), ends=True)


def test_nothing_is_left_that_could_report_when_the_only_node_is_gone():
    only = node(0)
    answer = consequence(only, lost=only, loss=Loss.GONE)
    assert answer == Consequence(ends=True, is_unreported=True)


@pytest.mark.parametrize("lost", [0, 1])
def test_all_nodes_drain_together_the_lost_one_first(lost):
    nodes = (node(0), node(1))
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.ANNOUNCED, has_token=True)
    assert answer == Consequence(drain=(nodes[lost], nodes[1 - lost]), ends=True)


@pytest.mark.parametrize("lost", [0, 1])
def test_the_node_that_is_left_reports(lost):
    nodes = (node(0), node(1))
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.GONE, has_token=True)
    assert answer == Consequence(ends=True)


@pytest.mark.parametrize("loss", Loss)
def test_before_the_token_nobody_could_report_and_nothing_is_saved(loss):
    nodes = (node(0), node(1))
    answer = consequence(*nodes, lost=nodes[1], loss=loss, stage=AttemptStage.LAUNCHED)
    drained = (nodes[1],) if loss is Loss.ANNOUNCED else ()
    assert answer == Consequence(drain=drained, ends=True, is_unreported=True)


@pytest.mark.parametrize("loss", Loss)
def test_a_gang_that_is_being_launched_is_ended_by_its_launch(loss):
    nodes = (node(0, NodeStage.LAUNCHING), node(1, NodeStage.LAUNCHING))
    answer = consequence(*nodes, lost=nodes[1], loss=loss, stage=AttemptStage.LAUNCHING)
    assert not answer.ends
    assert not answer.is_unreported


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("has_token", [False, True])
def test_the_loss_of_a_spare_ends_nothing(loss, has_token):
    nodes = (node(0), node(1), node(2))
    answer = consequence(*nodes, lost=nodes[2], loss=loss, is_spare=True, has_token=has_token)
    assert answer == Consequence(drain=(nodes[2],) if loss is Loss.ANNOUNCED else ())


def test_a_spare_that_is_gone_last_leaves_nothing_that_could_report():
    gone, spare = node(0, NodeStage.GONE), node(1)
    answer = consequence(gone, spare, lost=spare, loss=Loss.GONE, is_spare=True, has_token=True)
    assert answer.is_unreported


@pytest.mark.parametrize("lost", [0, 1])
def test_the_last_of_two_nodes_to_go_leaves_nothing_that_could_report(lost):
    nodes = [node(0), node(1)]
    nodes[1 - lost] = replace(nodes[1 - lost], stage=NodeStage.GONE)
    answer = consequence(*nodes, lost=nodes[lost], loss=Loss.GONE, has_token=True)
    assert answer == Consequence(ends=True, is_unreported=True)


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
