# /// script
# requires-python = ">=3.10"
# dependencies = ["torch>=2.4", "numpy>=2,<3", "scikit-learn>=1.5"]
# ///
"""A trainer on any number of nodes: a small network learns digits with DistributedDataParallel.

`runctl aws train-distributed --nodes 2 examples/training/train_ddp.py` starts it on each node with
torchrun. On one machine it runs alone, or with torchrun (`from runctl import training` needs
`PYTHONPATH=.` in a checkout of runctl, and nothing on an instance):

    python examples/training/train_ddp.py
    torchrun --nproc-per-node 2 examples/training/train_ddp.py

Every step takes the same images of the same epoch's order, divided among the ranks, however many
there are: a run that resumes with another number of nodes continues the same training. With the
same number it ends with the same bits as an uninterrupted one.
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

# One thread: a different order of summation would give different bits on another machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from runctl import training
from runctl.hooks.pytorch import all_should_save, all_should_stop, measure, process_group


def choose_device() -> torch.device:
    """Return the GPU of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def load(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 1,797 images of scikit-learn in 0..1, and their labels, from its own file."""
    package = importlib.util.find_spec("sklearn")  # importing it would take seconds
    if package is None or package.origin is None:
        sys.exit("scikit-learn, which contains the digits, is missing: pip install scikit-learn")
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz", "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    images, labels = torch.from_numpy(table[:, :-1] / 16), torch.from_numpy(table[:, -1])
    return images.to(device), labels.long().to(device)


def batch_of(step: int, *, images: int, size: int, seed: int) -> torch.Tensor:
    """Return the numbers of the images of a step, which depend on nothing else."""
    epoch, position = divmod(step, images // size)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed + epoch))
    return order[position * size : (position + 1) * size]


def sum_of(value: torch.Tensor) -> float:
    """Return the sum over all ranks."""
    total = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return float(total)


def write_result(model: nn.Module, step: int, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Write the weights and what they achieve on images that were not trained on."""
    training.output_dir.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), training.output_dir / "model.pt")
    with torch.no_grad():
        accuracy = float((model(images).argmax(dim=1) == labels).float().mean())
    content = b"".join(value.cpu().numpy().tobytes() for value in model.state_dict().values())
    digest = hashlib.sha256(content).hexdigest()
    result = {"steps": step, "accuracy": round(accuracy, 4), "weights_sha256": digest}
    Path(training.output_dir / "result.json").write_text(json.dumps(result))
    print(f"done: accuracy {accuracy:.2%}, weights {digest[:16]}", flush=True)


def train(arguments: argparse.Namespace, device: torch.device) -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    images, labels = load(device)
    count = 1500  # the others are for the test
    torch.manual_seed(arguments.seed)
    plain = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.SGD(plain.parameters(), lr=arguments.rate, momentum=0.9)
    step, steps = 0, arguments.epochs * (count // arguments.batch)
    if found := training.restore():
        state = torch.load(found.path, map_location=device)
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = found.step
    start = f"from step {step}" if step else "from the beginning"
    print(f"rank {rank} of {ranks} trains on {device} {start}", flush=True)
    model = DistributedDataParallel(plain) if dist.is_initialized() else plain
    measure(model)

    def save() -> None:
        state = {"model": plain.state_dict(), "optimizer": optimizer.state_dict()}
        training.save(lambda path: torch.save(state, path), step, suffix=".pt", keep=2)

    while step < steps:
        started = time.monotonic()
        chosen = batch_of(step, images=count, size=arguments.batch, seed=arguments.seed)
        mine = chosen[rank::ranks].to(device)
        lost = nn.functional.cross_entropy(model(images[mine]), labels[mine], reduction="sum")
        # DDP averages over the ranks, whose shares of the batch may differ by an image.
        loss = lost * ranks / len(chosen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        time.sleep(max(0, arguments.step_seconds - (time.monotonic() - started)))
        if step % 25 == 0:
            mean = sum_of(lost) / len(chosen)
            training.report(step, loss=round(mean, 6))
            if rank == 0:
                print(f"step {step}/{steps}  loss {mean:.4f}", flush=True)
        # All ranks save and stop at the same step, whichever of them was asked to.
        if all_should_save(every=arguments.every):
            save()
        if all_should_stop():
            break
    save()
    if step == steps and rank == 0:
        write_result(plain, step, images[count:], labels[count:])


def main() -> None:
    """Join the other ranks, if there are any, and train."""
    parser = argparse.ArgumentParser(description="Train a digit classifier on any number of ranks.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=60, help="Images of a step, on all ranks")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=float, default=30, help="Seconds between saves")
    parser.add_argument("--step-seconds", type=float, default=0, help="Minimum duration of a step")
    arguments = parser.parse_args()

    device = choose_device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    # The limit is a second line of defense: runctl finds a rank that hangs earlier.
    with process_group(backend, timeout=timedelta(minutes=5)):
        train(arguments, device)


if __name__ == "__main__":
    main()
