"""Agents of several nodes whose ranks save files of their own."""

from __future__ import annotations

import pytest

from runctl.model.gang import NodeEnd
from runctl.model.outcome import OutcomeKind
from tests.agent.gang_machines import TRAINER, Gang
from tests.agent.machine import wait_until
from tests.agent.stepping import store_of

pytestmark = pytest.mark.slow

# Every rank saves its part of a step when it is asked to stop.
SHARDED = TRAINER.replace(
    """    if rank == "0":
        (folder / "step-5.bin").write_text("saved")
""",
    """    (folder / "step-5").mkdir(exist_ok=True)
    (folder / "step-5" / ("rank-" + rank + ".bin")).write_bytes(rank.encode() * 400_000)
""",
)
# The same, with a first checkpoint in front of the loop.
SHARDED_FROM_STEP_1 = SHARDED.replace(
    "while True:",
    """(folder / "step-1").mkdir(exist_ok=True)
(folder / "step-1" / ("rank-" + rank + ".bin")).write_bytes(rank.encode() * 100)
while True:""",
    1,
)


@pytest.fixture
def gang(cloud, launch, tmp_path):
    return Gang(cloud, launch, tmp_path / "place")


def files_of_newest(gang: Gang) -> list[str]:
    entries = store_of(gang.cloud).get_manifest(gang.cloud.run().newest).entries
    return sorted(entry.path for entry in entries if entry.kind == "file")


def test_a_notice_saves_the_parts_of_all_nodes_and_the_next_attempt_has_them(gang):
    assert SHARDED != TRAINER
    gang.create_run(program=SHARDED)
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    stays, taken = gang.boot("i-a"), gang.boot("i-b")
    gang.started("1-0")
    gang.started("1-1")
    taken.metadata.give_notice(60)
    assert gang.end_attempt().kind is OutcomeKind.INTERRUPTED
    assert files_of_newest(gang) == ["step-5/rank-0.bin", "step-5/rank-1.bin"]
    end = gang.nodes()[1].progress.gang.ended
    assert isinstance(end, NodeEnd)
    assert end.is_stored
    gang.open(2, "i-c", kept=("i-a",))
    gang.cloud.give_token(2)
    joins = gang.boot("i-c", attempt=2)
    assert gang.started("2-0")["files"] == gang.started("2-1")["files"] == ["step-5"]
    assert "fetched 400000 of the 800000 bytes" in stays.agent_log()
    assert "fetched 800000 of the 800000 bytes" in joins.agent_log()
    gang.end_programs("2")
    assert gang.end_attempt(2).kind is OutcomeKind.COMPLETED


def test_without_the_part_of_a_lost_node_the_checkpoint_before_stays(gang):
    gang.create_run(program=SHARDED_FROM_STEP_1)
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    gang.boot("i-a")
    lost = gang.boot("i-b")
    gang.started("1-0")
    gang.started("1-1")
    wait_until(lambda: gang.cloud.run().newest is not None, 60)
    first = ["step-1/rank-0.bin", "step-1/rank-1.bin"]
    assert files_of_newest(gang) == first
    lost.kill_agent()
    outcome = gang.end_attempt()
    assert outcome.lost_ranks == (1,)
    assert files_of_newest(gang) == first
    assert gang.cloud.run().step == 1


def test_a_checkpoint_that_one_node_cannot_restore_is_left_out_by_all(gang):
    gang.create_run(program=SHARDED_FROM_STEP_1)
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    stays, taken = gang.boot("i-a"), gang.boot("i-b")
    gang.started("1-0")
    gang.started("1-1")
    wait_until(lambda: gang.cloud.run().newest is not None, 60)
    first = gang.cloud.run().newest
    taken.metadata.give_notice(100)
    gang.end_attempt()
    newest = gang.cloud.run().newest
    assert first < newest
    # The file of the node that stays is gone from S3, and only there.
    entries = store_of(gang.cloud).get_manifest(newest).entries
    lost = next(entry for entry in entries if entry.path == "step-5/rank-0.bin")
    store_of(gang.cloud).delete_parts([part.sha256 for part in lost.parts])
    gang.open(2, "i-c", kept=("i-a",))
    gang.cloud.give_token(2)
    joins = gang.boot("i-c", attempt=2)
    assert gang.started("2-0")["files"] == gang.started("2-1")["files"] == ["step-1"]
    assert f"the checkpoint {newest} is damaged" in joins.agent_log()
    assert f"restored step 5 from {newest}" in stays.agent_log()
    assert f"another node could only restore {first}: so does this one" in stays.agent_log()
    assert {node.progress.resume_step for node in gang.nodes(2)} == {1}
    gang.end_programs("2")
    assert gang.end_attempt(2).kind is OutcomeKind.COMPLETED
