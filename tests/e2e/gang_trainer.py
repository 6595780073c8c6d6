"""A training of several ranks over Gloo that a test steers by files in the folder CONTROL.

It takes steps up to the number in `limit`, and meanwhile agrees with the other ranks on what to do.
A rank waits before it joins the others while `join-RANK` exists, and in the middle of a save while
`save-RANK` does. Each says where it is by a file: `process-ATTEMPT-RANK` (with its process id),
`joined-…`, `saving-STEP-…`. The checkpoint of the step in `lose` lacks the shard of rank 1.

Gradients are averaged by hand: DistributedDataParallel takes two more seconds to import.
"""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist

from runctl import training
from runctl.hooks.pytorch import any_rank

CONTROL, LAST, EVERY = (
    Path(os.environ["CONTROL"]),
    int(os.environ["LAST"]),
    int(os.environ["EVERY"]),
)
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
BATCH = 12  # of all ranks together: 1, 2, 3 and 4 ranks compute the same, apart from rounding


def say(what, content=""):
    new = CONTROL / f".{what}-{RANK}"
    new.write_text(content)
    new.rename(CONTROL / f"{what}-{training.attempt}-{RANK}")


def wait_while(name):
    while (CONTROL / f"{name}-{RANK}").exists():
        time.sleep(0.02)


def number_in(name):
    path = CONTROL / name
    return int(path.read_text() or 0) if path.exists() else 0


training.should_stop()  # from here on SIGTERM is heeded
say("process", str(os.getpid()))
wait_while("join")
dist.init_process_group("gloo")
say("joined")
torch.manual_seed(7)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
weights = dict(model.named_parameters())
momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
state = {"weights": {name: weight.detach() for name, weight in weights.items()}, "momenta": momenta}


def folder_of(number):
    return training.checkpoint_dir / f"sharded-{number:06d}"


def save_shards():
    import torch.distributed.checkpoint as dcp

    class Writer(dcp.FileSystemWriter):
        """Writes a rank's shard, and can be held before rank 0 hears of it."""

        def write_data(self, plan, planner):
            written = super().write_data(plan, planner)
            written.wait()
            say(f"saving-{step}")
            wait_while("save")
            return written

    dcp.save(state, storage_writer=Writer(folder_of(step), overwrite=True))
    if number_in("lose") == step:
        for lost in folder_of(step).glob("__1_*"):
            lost.unlink()
    dist.barrier()
    training.saved(step)
    for old in sorted(training.checkpoint_dir.glob("sharded-*"))[:-3]:
        shutil.rmtree(old, ignore_errors=True)


def load_shards():
    whole = training.checkpoint_dir.glob("sharded-*/.metadata")
    newest = max((path.parent for path in whole), default=None)
    if newest is None:
        return 0
    import torch.distributed.checkpoint as dcp

    dcp.load(state, checkpoint_id=newest)
    return int(newest.name.partition("-")[2])


def save_file():
    def write(path):
        torch.save(state, path)
        say(f"saving-{step}")
        wait_while("save")

    training.save(write, step, suffix=".pt", keep=2)


def load_file():
    found = training.restore()
    if found is None:
        return 0
    loaded = torch.load(found.path, weights_only=True)
    for kind, tensors in state.items():
        for name, tensor in tensors.items():
            tensor.copy_(loaded[kind][name])
    return found.step


save, load = {"sharded": (save_shards, load_shards), "file": (save_file, load_file)}[
    os.environ["FORMAT"]
]
step = load()
print(f"rank {RANK} of {WORLD} continues from {step}", flush=True)
while step < LAST:
    is_held = step >= number_in("limit")
    stops, saves, is_held = any_rank(
        training.should_stop(), training.checkpoint_requested(), is_held
    )
    if stops or saves:
        save()
    if stops:
        break
    if is_held:
        time.sleep(0.02)
        continue
    step += 1
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(BATCH, 16, generator=generator)
    mine = inputs[RANK * BATCH // WORLD : (RANK + 1) * BATCH // WORLD]
    errors = (model(mine) - mine.sum(1, keepdim=True).sin()).square()
    gradients = torch.autograd.grad(errors.sum() / BATCH, list(weights.values()))
    together = torch.cat([errors.detach().sum()[None] / BATCH, *(g.flatten() for g in gradients)])
    dist.all_reduce(together)
    loss, *rest = together.split([1, *(weight.numel() for weight in weights.values())])
    for (name, weight), gradient in zip(state["weights"].items(), rest, strict=True):
        momenta[name].mul_(0.9).add_(gradient.view_as(weight))
        weight.sub_(momenta[name], alpha=0.05)
    if step % EVERY == 0 and step < LAST:
        save()
if step == LAST and RANK == 0:
    final = b"".join(weight.numpy().tobytes() for weight in state["weights"].values())
    result = {"loss": loss.item(), "world": WORLD, "weights": hashlib.sha256(final).hexdigest()}
    (training.output_dir / "result.json").write_text(json.dumps(result))
dist.barrier()
dist.destroy_process_group()
