"""The job of bench/gang.py: training on all ranks, started by any launcher that torch knows.

`gang_trainer.py FACTS EVERY MEBIBYTES`: each rank appends its steps to a file of its own in FACTS.
Rank 0 saves after EVERY steps, and when any rank received SIGTERM; all ranks then end.
"""

import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEP_SECONDS = 0.1
FACTS, EVERY, MEBIBYTES = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
CHECKPOINTS = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR") or FACTS / "checkpoints")
PROCESS = f"{os.getpid()}-{time.time_ns()}"  # machines may have the same process ids


def record(what: str, **facts: Any) -> None:
    """Append a fact about this rank, which the benchmark reads."""
    line = json.dumps({"what": what, "at": time.time(), "process": PROCESS, **facts})
    with (FACTS / f"{PROCESS}.jsonl").open("a") as lines:
        lines.write(line + "\n")


def save(state: dict[str, Any], step: int) -> None:
    """Write a checkpoint that is whole as soon as it has its name."""
    partial = CHECKPOINTS / f".step-{step:08}.pt"
    torch.save(state, partial)
    partial.replace(CHECKPOINTS / f"step-{step:08}.pt")
    for old in sorted(CHECKPOINTS.glob("step-*.pt"))[:-2]:
        old.unlink()


def main() -> None:
    """Train from the newest checkpoint until a rank is asked to stop."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    rank, world = dist.get_rank(), dist.get_world_size()
    plain = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    # As an optimizer's state: it is part of the checkpoint and not of what the ranks exchange.
    moments, step = torch.rand(MEBIBYTES * 2**18), 0
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    if found := sorted(CHECKPOINTS.glob("step-*.pt")):
        held = torch.load(found[-1])
        plain.load_state_dict(held["model"])
        moments, step = held["moments"], held["step"]
        record("restored", bytes=found[-1].stat().st_size, step=step)
    model = DistributedDataParallel(plain)
    record("began", rank=rank, world=world)
    while True:
        began = time.monotonic()
        loss = model(torch.rand(8, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        flag = torch.tensor([float(asked.is_set())])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        step += 1
        record("step", step=step, world=world)
        if rank == 0 and (flag or step % EVERY == 0):
            save({"model": plain.state_dict(), "moments": moments, "step": step}, step)
            record("saved", step=step)
        if flag:
            break
        time.sleep(max(0.0, STEP_SECONDS - (time.monotonic() - began)))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
