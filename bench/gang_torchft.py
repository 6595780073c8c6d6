"""The job of bench/gang.py for torchft, which needs a training script of its own.

`gang_torchft.py FACTS NODE MEBIBYTES`; it keeps no checkpoints: a new node receives the state from
another one.
"""

import json
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch.distributed import TCPStore

FACTS, NODE, MEBIBYTES = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
STEP_SECONDS = 0.1
PROCESS = f"{NODE}-{os.getpid()}"


def record(what: str, *, changes: int = 0, **facts: Any) -> None:
    """Append a fact about this node, after some changes of the group, which the benchmark reads."""
    process = f"{PROCESS}-{changes}"
    line = json.dumps({"what": what, "at": time.time(), "process": process, **facts})
    with (FACTS / f"{PROCESS}.jsonl").open("a") as lines:
        lines.write(line + "\n")


def main() -> None:
    """Train with the nodes that are there."""
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    plain = torch.nn.Linear(64, 10)
    state = {"moments": torch.rand(MEBIBYTES * 2**18)}

    def load(held: dict[str, Any]) -> None:
        plain.load_state_dict(held["model"])
        state["moments"] = held["moments"]
        record("restored", bytes=state["moments"].nbytes)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=10)),
        load_state_dict=load,
        state_dict=lambda: {"model": plain.state_dict(), **state},
        min_replica_size=1,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        hostname="127.0.0.1",
        replica_id=f"node_{NODE}_",
        timeout=timedelta(seconds=30),
    )
    model = DistributedDataParallel(manager, plain)
    optimizer = Optimizer(manager, torch.optim.SGD(plain.parameters(), lr=0.1))
    record("began")
    world = changes = 0
    while True:
        began = time.monotonic()
        optimizer.zero_grad()
        model(torch.rand(8, 64)).square().mean().backward()
        before = manager.current_step()
        optimizer.step()
        if manager.current_step() > before:
            if world != manager.num_participants():
                world, changes = manager.num_participants(), changes + 1
            record("step", changes=changes, step=manager.current_step(), world=world)
        time.sleep(max(0.0, STEP_SECONDS - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
