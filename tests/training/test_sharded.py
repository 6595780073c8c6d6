"""Sharded saves with real torch: on several nodes, restored with another number of ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training.place import Place

pytestmark = pytest.mark.slow

# Each rank has a part of a tensor, and of a model and its optimizer under FSDP; each node has a
# folder of its own. One step of AdamW on the whole batch is the same with any number of ranks.
RANK = """
    import os, sys, torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor, zeros
    from runctl import training
    from runctl.hooks.sharded import load_sharded, save_sharded
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method="file://" + os.environ["MEETING"],
                            rank=rank, world_size=world)
    mesh = DeviceMesh("cpu", list(range(world)))
    torch.manual_seed(rank)  # what is not loaded differs
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def train_step(seed):
        inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        mine = inputs[rank * 12 // world : (rank + 1) * 12 // world]
        (model(mine) - mine.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def weights():
        return [round(p.full_tensor().sum().item(), 3) for p in model.parameters()]

    def parts():
        of_model, of_optimizer = get_state_dict(model, optimizer)
        return {"model": of_model, "optimizer": of_optimizer}

    state = {"w": zeros(8, 4, device_mesh=mesh, placements=[Shard(0)]), "seen": 0, **parts()}
    step = load_sharded(state)
    print("from", step, state["seen"], state["w"].full_tensor().sum().item(), flush=True)
    if step is not None:
        set_state_dict(model, optimizer, model_state_dict=state["model"],
                       optim_state_dict=state["optimizer"])
        print("weights", weights())
        train_step(2)  # as the next step of the others would be, by the momenta that were loaded
        print("then", weights(), flush=True)
    if step is None:
        assert load_sharded(state) is None
        train_step(0)
        train_step(1)
        for step in (100, 200, 200):
            state["w"] = distribute_tensor(step + torch.arange(32.).reshape(8, 4), mesh, [Shard(0)])
            state["seen"] = 64 * step
            state |= parts()
            save_sharded(state, step, keep=1)
        print("weights", weights())
        train_step(2)
        print("then", weights(), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    # A thread of Gloo that releases a tensor while the interpreter ends would abort it.
    sys.stdout.flush()
    os._exit(0)
"""


def run_ranks(place: Place, python: Path, folders: list[Path], *, per_node: int) -> list[list[str]]:
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
    return [out.splitlines()[-3:] for out, _ in ends]


def test_a_save_of_four_ranks_on_two_nodes_is_loaded_by_two(place: Place, frameworks: Path) -> None:
    nodes = [place.root / "node-0", place.root / "node-1"]
    first = run_ranks(place, frameworks, nodes, per_node=2)
    assert {lines[0] for lines in first} == {"from None 0 0.0"}
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
    second = run_ranks(place, frameworks, nodes, per_node=1)
    assert {lines[0] for lines in second} == {f"from 200 12800 {total}"}
    # The weights are those that were saved, and so is what the optimizer makes of the next step.
    assert len({tuple(lines[1:]) for lines in first}) == 1
    assert {tuple(lines[1:]) for lines in second} == {tuple(first[0][1:])}
