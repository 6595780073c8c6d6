"""The commands about a run of several nodes: its state and its output."""

import pytest

from runctl.model.gang import GangReport
from runctl.model.node import NodeId, NodeProgress
from runctl.model.outcome import RunStatus
from tests.cli.deployed import now


@pytest.fixture
def gang(deployed):
    """A run of three nodes that trains."""
    deployed.begin("ddp", nodes=3)
    deployed.train("ddp", 1, nodes=3)
    for rank in range(3):
        deployed.ledger.record_progress(
            NodeId("ddp", 1, rank),
            NodeProgress(
                phase="train", step=20 + rank, gang=GangReport(is_ready=True, processes=2)
            ),
            now=now(),
        )
        deployed.say("ddp", 1, f"line of {rank}", rank=rank)
    return deployed


def test_status_shows_each_node(gang, runctl):
    gang.ledger.record_notice(NodeId("ddp", 1, 1), now=now())
    done = runctl("status", "ddp")
    assert done.code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["nodes", "3"] in rows
    (row,) = [row for row in rows if row[:2] == ["1", "i-00000000000000011"]]
    assert row[2:4] == ["train", "21"]
    assert any(cell.count(":") == 2 for cell in row)  # the time of the notice


def test_the_document_has_each_node(gang, runctl):
    (attempt,) = runctl("status", "ddp", "--json").document["attempts"]
    assert [node["step"] for node in attempt["nodes"]] == [20, 21, 22]
    assert [node["state"] for node in attempt["nodes"]] == ["train"] * 3
    assert attempt["nodes"][2]["instance_id"] == attempt["instance_ids"][2]


def test_logs_mark_the_lines_of_each_node(gang, runctl):
    done = runctl("logs", "ddp")
    assert sorted(done.stdout.splitlines()) == [
        "[0] line of 0", "[1] line of 1", "[2] line of 2",
    ]  # fmt: skip
    lines = runctl("logs", "ddp", "--json").document["lines"]
    assert sorted((line["rank"], line["text"]) for line in lines) == [
        (0, "line of 0"), (1, "line of 1"), (2, "line of 2"),
    ]  # fmt: skip


def test_lines_of_nodes_are_in_the_order_of_their_times(gang, runctl):
    gang.say("ddp", 1, "later", rank=0)
    assert runctl("logs", "ddp").stdout.splitlines()[-1] == "[0] later"


def test_logs_of_one_rank_have_no_mark(gang, runctl):
    assert runctl("logs", "ddp", "--rank", "2").stdout == "line of 2\n"


def test_logs_of_a_rank_that_no_attempt_has_are_refused(gang, runctl):
    done = runctl("logs", "ddp", "--rank", "3")
    assert (done.code, "no node of rank 3; its ranks are 0 to 2" in done.stderr) == (4, True)


def test_following_shows_the_lines_of_all_nodes(gang, runctl):
    gang.end("ddp", RunStatus.STOPPED, "stopped by a user")
    done = runctl("logs", "ddp", "-f")
    assert len([line for line in done.stdout.splitlines() if line.startswith("[")]) == 3


def test_a_list_shows_the_run_once(gang, runctl):
    assert [run["run_id"] for run in runctl("list", "--json").document["runs"]] == ["ddp"]
