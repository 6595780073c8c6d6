"""Several agents of one attempt: their rendezvous, their lead, and what follows it."""

import pytest

from runctl.model.outcome import RunStatus
from tests.agent.gang_machines import TORCH, Gang
from tests.agent.machine import is_alive, now, packed, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def gang(cloud, launch, tmp_path):
    return Gang(cloud, launch, tmp_path / "place")


def test_all_nodes_start_together_and_the_lead_reports_when_all_have_ended(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    first, second = gang.boot("i-a"), gang.boot("i-b")
    seen = [gang.started("1-0"), gang.started("1-1")]
    assert [each["RUNCTL_NODE_RANK"] for each in seen] == ["0", "1"]
    assert seen[0]["OPTIONS"] != seen[1]["OPTIONS"]
    assert seen[0]["MASTER"] == seen[1]["MASTER"]
    assert {each["RUNCTL_BACKEND"] for each in seen} == {"gloo"}
    assert {each["GLOO_SOCKET_IFNAME"] for each in seen} == {"lo"}
    gang.end_programs("1-0")
    assert not gang.cloud.tokens.reports
    gang.end_programs("1-1")
    assert gang.end_attempt().kind.value == "completed"
    assert first.wait() == second.wait() == 0
    assert first.shut_down
    assert second.shut_down
    assert len(gang.cloud.tokens.reports) == 1
    assert {"runs/run-1/outputs/result.txt", "runs/run-1/outputs/node-001/result.txt"} <= set(
        gang.cloud.keys("runs/run-1/outputs/")
    )


def test_a_node_that_is_taken_is_replaced_while_the_others_stay(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    lead, taken = gang.boot("i-a"), gang.boot("i-b")
    pid = gang.started("1-0")["pid"]
    gang.started("1-1")
    taken.metadata.give_notice(40)
    lead.ask("drain")  # as all nodes are, whichever of them EC2 takes
    gang.wait_for("stopped-1-0")
    gang.wait_for("stopped-1-1")
    outcome = gang.end_attempt()
    assert (outcome.kind.value, outcome.step) == ("interrupted", 5)
    assert "node 1 (i-b)" in outcome.reason
    assert [node.noticed_at is None for node in gang.nodes()] == [True, False]
    assert not is_alive(pid)
    # The machine that is taken does not come back: another one has its rank.
    gang.open(2, "i-c", kept=("i-a",))
    gang.cloud.give_token(2)
    gang.boot("i-c", attempt=2)
    again, joined = gang.started("2-0"), gang.started("2-1")
    assert again["files"] == ["step-5.bin"] == joined["files"]
    assert again["RUNCTL_RESUME_STEP"] == "5"
    assert again["MASTER"] == joined["MASTER"]
    assert not lead.shut_down
    assert taken.wait() == 0
    assert not taken.shut_down
    gang.end_programs("2")
    assert gang.end_attempt(2).kind.value == "completed"
    gang.cloud.ledger.end_run("run-1", status=RunStatus.COMPLETED, reason="", now=now())
    assert lead.wait() == 0
    assert lead.shut_down
    assert [event for event in gang.cloud.log("run-1/0002-000") if "trainer" in event] == []


def test_the_next_node_takes_over_when_the_lead_is_lost(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    lead, second = gang.boot("i-a"), gang.boot("i-b")
    gang.started("1-0")
    gang.started("1-1")
    lead.end()
    outcome = gang.end_attempt()
    assert (outcome.kind.value, outcome.lost_ranks) == ("lost", (0,))
    assert "node 0 (i-a) has been silent" in outcome.reason
    # An agent that is started again in between still goes on with the next attempt.
    wait_until(lambda: "waiting for the next attempt" in second.agent_log())
    second.kill_agent()
    gang.open(2, "i-c", kept=("i-b",))
    second.start()
    gang.cloud.give_token(2)
    gang.boot("i-c", attempt=2)
    assert gang.started("2-0")["RUNCTL_NODE_RANK"] == "0"
    gang.started("2-1")
    assert [node.instance_id for node in gang.nodes(2)] == ["i-b", "i-c"]


def test_a_spare_prepares_and_takes_a_place_in_the_next_attempt(gang):
    gang.create_run(spares=1)
    gang.open(1, "i-a", "i-b", "i-c")
    gang.cloud.give_token()
    first, spare = gang.boot("i-a"), gang.boot("i-c")
    failing = gang.boot("i-b")
    gang.started("1-0")
    gang.started("1-1")
    wait_until(lambda: "this node is a spare" in spare.agent_log())
    gang.end_programs("1-1", 3)
    outcome = gang.end_attempt()
    assert outcome.kind.value == "failed"
    assert "node 1 (i-b): exit code 1" in outcome.reason
    assert "the trainer of 1-1 fails" in outcome.reason
    gang.wait_for("stopped-1-0")
    assert not (gang.place / "started-1-2").exists()
    # The failing machine is left out: the spare has its place at once.
    gang.open(2, kept=("i-a", "i-c"))
    gang.cloud.give_token(2)
    assert gang.started("2-1")["WORLD_SIZE"] == "2"
    assert failing.wait() == 0
    assert failing.shut_down
    assert not first.shut_down


def test_other_code_on_a_node_fails_the_attempt_and_names_it(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    gang.boot("i-a")
    wait_until(lambda: gang.nodes()[0].progress.phase == "wait")
    gang.cloud.clients["s3"].put_object(
        Bucket=gang.cloud.name,
        Key="code/project.tar.gz",
        Body=packed({"train.py": "print()", **TORCH}),
    )
    gang.boot("i-b")
    gang.cloud.give_token()
    outcome = gang.end_attempt()
    assert outcome.kind.value == "failed"
    assert "node 1 (i-b) has another code than the others" in outcome.reason


def test_a_script_for_another_interpreter_is_told_where_the_rendezvous_is(gang):
    program = """#!/bin/sh
echo "$NODE_RANK of $NNODES at $MASTER_ADDR:$MASTER_PORT, $NPROC_PER_NODE" > "$PLACE/$NODE_RANK"
"""
    gang.create_run(files={"train.sh": program}, script="train.sh", processes_per_node=3, nodes=2)
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    gang.boot("i-a")
    gang.boot("i-b")
    first, second = gang.wait_for("0").read_text(), gang.wait_for("1").read_text()
    assert first.startswith("0 of 2 at 127.0.0.1:")
    assert first.rstrip().endswith(", 3")
    assert second == f"1{first[1:]}"
    assert gang.end_attempt().kind.value == "completed"


def test_a_project_without_torch_is_refused_with_the_remedy(gang):
    gang.create_run(files={})
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    gang.boot("i-a")
    gang.boot("i-b")
    outcome = gang.end_attempt()
    assert outcome.kind.value == "failed"
    assert "add torch to the project's dependencies" in outcome.reason


def test_a_machine_that_an_attempt_does_not_have_leaves(gang):
    gang.create_run()
    gang.open(1, "i-a", "i-b")
    # What the function answers an instance whose attempt has others.
    over = {"status": "over", "reason": "attempt 1 of the run is on another instance"}
    gang.cloud.sessions.refusals["agent"] = over
    machine = gang.boot("i-x")
    assert machine.wait() == 0
    assert machine.shut_down
    assert over["reason"] in machine.agent_log()
