"""Sharded saves with real torch: on several nodes, restored with another number of ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training.place import Place

pytestmark = pytest.mark.slow

# Each rank has a part of the tensor, and each node a folder of its own.
RANK = """
    import os, sys, torch
    import torch.distributed as dist
    from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor, zeros
    from runctl import training
    from runctl.hooks.sharded import load_sharded, save_sharded
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method="file://" + os.environ["MEETING"],
                            rank=rank, world_size=world)
    mesh = DeviceMesh("cpu", list(range(world)))
    state = {"w": zeros(8, 4, device_mesh=mesh, placements=[Shard(0)]), "seen": 0}
    step = load_sharded(state)
    print("from", step, state["seen"], state["w"].full_tensor().sum().item(), flush=True)
    if step is None:
        assert load_sharded(state) is None
        for step in (100, 200, 200):
            state["w"] = distribute_tensor(step + torch.arange(32.).reshape(8, 4), mesh, [Shard(0)])
            state["seen"] = 64 * step
            save_sharded(state, step, keep=1)
    dist.barrier()
    dist.destroy_process_group()
"""


def run_ranks(place: Place, python: Path, folders: list[Path], *, per_node: int) -> list[str]:
    """Run ranks on several nodes, and return what they print."""
    world = per_node * len(folders)
    ranks = [
        place.start(
            RANK,
            python=python,
            RANK=str(rank),
            LOCAL_RANK=str(rank % per_node),
            WORLD_SIZE=str(world),
            MEETING=str(place.root / f"meeting-{world}"),
            RUNCTL_CHECKPOINT_DIR=str(folders[rank // per_node]),
            RUNCTL_SAVED_FILE=f"{folders[rank // per_node]}.saved",
        )
        for rank in range(world)
    ]
    ends = [rank.communicate(timeout=240) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, ends
    return [out.splitlines()[-1] for out, _ in ends]


def test_a_save_of_four_ranks_on_two_nodes_is_loaded_by_two(place: Place, frameworks: Path) -> None:
    nodes = [place.root / "node-0", place.root / "node-1"]
    assert set(run_ranks(place, frameworks, nodes, per_node=2)) == {"from None 0 0.0"}
    # The second save of a step has another folder, and replaces the first; only one is kept.
    assert [path.name for path in nodes[0].iterdir()] == ["step-000000200b"]
    found = [sorted(path.name for path in (node / "step-000000200b").iterdir()) for node in nodes]
    assert found == [
        [".metadata", "__0_0.distcp", "__1_0.distcp"],
        ["__2_0.distcp", "__3_0.distcp"],
    ]
    for node in nodes:  # the first rank of each machine reports its saves
        reported = Path(f"{node}.saved").read_text().splitlines()
        assert [json.loads(line)["step"] for line in reported] == [100, 200, 200]
    # As runctl restores it on each machine.
    shutil.copytree(nodes[0], nodes[1], dirs_exist_ok=True)
    shutil.copytree(nodes[1], nodes[0], dirs_exist_ok=True)
    total = float(32 * 200 + sum(range(32)))
    assert set(run_ranks(place, frameworks, nodes, per_node=1)) == {f"from 200 12800 {total}"}
