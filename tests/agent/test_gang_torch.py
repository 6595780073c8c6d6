"""A gang that the real launcher of torch starts."""

import json
import signal
from pathlib import Path

import pytest

from tests.agent.gang_machines import Gang

FRAMEWORKS = Path(__file__).parents[2] / "build/frameworks"
PACKAGES = next(FRAMEWORKS.glob("lib/python3*/site-packages"), FRAMEWORKS)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACKAGES / "torch").exists(), reason="needs build/frameworks, which make test builds"
    ),
]

# A rank counts the signals that it gets, and takes its time to save.
TRAINER = """
import json, os, pathlib, signal, time
place, rank = pathlib.Path(os.environ["PLACE"]), os.environ["RANK"]
got = []
signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
seen = {"world": os.environ["WORLD_SIZE"], "local": os.environ["LOCAL_RANK"],
        "threads": os.environ["OMP_NUM_THREADS"]}
(place / f"started-1-{rank}.new").write_text(json.dumps(seen))
(place / f"started-1-{rank}.new").rename(place / f"started-1-{rank}")
while not got:
    time.sleep(0.05)
time.sleep(1.5)
if rank == "0":
    pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"], "step-9.bin").write_text("saved")
(place / f"signals-{rank}").write_text(json.dumps(got))
"""


def test_a_drain_reaches_the_ranks_of_torchrun_and_not_torchrun(cloud, launch, tmp_path):
    gang = Gang(cloud, launch, tmp_path / "place")
    gang.create_run(
        program=TRAINER, files={}, processes_per_node=2, env={"PYTHONPATH": str(PACKAGES)}
    )
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    gang.boot("i-a")
    second = gang.boot("i-b")
    seen = [gang.started(f"1-{rank}") for rank in range(4)]
    assert [each["world"] for each in seen] == ["4"] * 4
    assert [each["local"] for each in seen] == ["0", "1", "0", "1"]
    second.metadata.give_notice(100)
    outcome = gang.end_attempt()
    assert (outcome.kind.value, outcome.step) == ("interrupted", 9)
    signals = [json.loads(gang.wait_for(f"signals-{rank}").read_text()) for rank in range(4)]
    assert signals == [[signal.SIGTERM]] * 4


# Rank 3 fails in the second collective, in which the other three wait for it.
FAILING = """
import os, sys
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.zeros(1))
if os.environ["RANK"] == "3":
    try:
        raise ValueError("the loss is nan")
    except ValueError:
        sys.excepthook(*sys.exc_info())
        os._exit(75)
dist.all_reduce(torch.zeros(1))
"""


def test_the_rank_that_failed_is_the_outcome_and_not_those_that_lost_it(cloud, launch, tmp_path):
    gang = Gang(cloud, launch, tmp_path / "place")
    env = {"PYTHONPATH": str(PACKAGES)}
    gang.create_run(program=FAILING, files={}, processes_per_node=2, env=env)
    gang.open(1, "i-a", "i-b")
    gang.cloud.give_token()
    gang.boot("i-a")
    gang.boot("i-b")
    outcome = gang.end_attempt(seconds=120)
    assert (outcome.kind.value, outcome.exit_code) == ("failed", 75)
    assert outcome.reason.startswith("node 1 (i-b): exit code 75: [rank3]: Traceback")
    assert outcome.reason.endswith("[rank3]: ValueError: the loss is nan")
    # The log has the tracebacks of all of them, by which the cause would not be found.
    assert "Connection closed by peer" in "".join(gang.cloud.log("run-1/0001-000"))
