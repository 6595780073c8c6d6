"""Gangs of the tests: several machines of one attempt, and a stand-in for torch's launcher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runctl.model.identity import NODES_TAG
from runctl.model.node import Node
from runctl.model.outcome import Outcome
from runctl.model.run import KeptNode, Launched
from tests.agent.machine import Cloud, Machine, now, wait_until

# It starts one process, as `python -m torch.distributed.run` would, and ends with its exit code.
LAUNCHER = """
import os, subprocess, sys
words = sys.argv[1:]
options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--"))
script = [word for word in words if not word.startswith("--")]
environment = {**os.environ, "RANK": options["node-rank"], "WORLD_SIZE": options["nnodes"],
               "MASTER": options["master-addr"] + ":" + options["master-port"],
               "OPTIONS": " ".join(words)}
done = subprocess.run([sys.executable, *script], env=environment)
sys.exit(1 if done.returncode else 0)
"""
TORCH = {
    "torch/__init__.py": "",
    "torch/distributed/__init__.py": "",
    "torch/distributed/run.py": LAUNCHER,
}
# Every process notes its start, waits until it is told to end, and saves on SIGTERM.
TRAINER = """
import json, os, pathlib, signal, sys, time
place = pathlib.Path(os.environ["PLACE"])
rank = os.environ.get("RANK", os.environ.get("NODE_RANK", ""))
name = os.environ["RUNCTL_ATTEMPT"] + "-" + rank
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])

def stop(*_):
    (place / f"stopped-{name}").touch()
    if rank == "0":
        (folder / "step-5.bin").write_text("saved")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
seen = {key: value for key, value in os.environ.items()}
seen["files"] = sorted(path.name for path in folder.iterdir())
seen["pid"] = os.getpid()
(place / f"started-{name}.new").write_text(json.dumps(seen))
(place / f"started-{name}.new").rename(place / f"started-{name}")
while True:
    for end in (place / f"end-{name}", place / f"end-{os.environ['RUNCTL_ATTEMPT']}"):
        if end.exists():
            pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "result.txt").write_text(name)
            code = end.read_text()
            if code:
                print("the trainer of", name, "fails", file=sys.stderr)
            sys.exit(int(code or 0))
    time.sleep(0.05)
"""


class Gang:
    """The machines of a run of several nodes, and what the control functions do for them."""

    def __init__(self, cloud: Cloud, launch: Callable[..., Machine], place: Path) -> None:
        self.cloud = cloud
        self.place = place
        self.machines: dict[str, Machine] = {}
        self._launch = launch
        place.mkdir()

    def create_run(self, *, nodes: int = 2, files: dict[str, str] | None = None, **request: Any):
        env = {"PLACE": str(self.place), **request.pop("env", {})}
        program = request.pop("program", TRAINER)
        return self.cloud.create_run(
            program, files=TORCH if files is None else files, nodes=nodes, env=env, **request
        )

    def open(self, number: int, *instance_ids: str, kept: tuple[str, ...] = ()) -> None:
        """Open an attempt as LaunchInstances does, and record its machines."""
        ledger, kept_nodes = self.cloud.ledger, tuple(KeptNode(each, "a/b/spot") for each in kept)
        ledger.open_attempt(
            self.cloud.run_id, number, launch_try=1, source=Launched("{}", kept=kept_nodes),
            now=now(), count=len(kept) + len(instance_ids),
        )  # fmt: skip
        ledger.record_launch(
            self.cloud.run_id, number, instance_ids=list(instance_ids), pool="a/b/spot",
            now=now(), kept=kept_nodes,
        )  # fmt: skip

    def boot(self, instance_id: str, *, attempt: int = 1, **options: Any) -> Machine:
        machine = self._launch(attempt, start=False, **options)
        machine.metadata.values |= {
            "instance-id": instance_id,
            "local-ipv4": "127.0.0.1",
            f"tags/instance/{NODES_TAG}": "2",
        }
        machine.start()
        self.machines[instance_id] = machine
        return machine

    def end_attempt(self, number: int = 1, seconds: float = 60) -> Outcome:
        """Wait for the report of an attempt, and end it in the ledger."""
        token = f"token-{number}"
        reports = self.cloud.tokens.wait_for(
            lambda: self.cloud.tokens.reports[number - 1 :], seconds
        )
        self.cloud.tokens.valid.discard(token)
        outcome = Outcome.from_document(reports[0]["outcome"])
        self.cloud.ledger.end_attempt(self.cloud.run_id, number, outcome=outcome, now=now())
        return outcome

    def nodes(self, number: int = 1) -> tuple[Node, ...]:
        return self.cloud.attempt(number).nodes

    def wait_for(self, name: str) -> Path:
        return wait_until(
            lambda: (path := self.place / name).exists() and path, 30, why=f"there is no {name}"
        )

    def started(self, name: str) -> dict[str, Any]:
        """Wait until a program has started, named by attempt and rank; return what it saw."""
        return json.loads(self.wait_for(f"started-{name}").read_text())

    def end_programs(self, name: str, code: int | str = "") -> None:
        path = self.place / f"end-{name}.new"
        path.write_text(str(code))
        path.rename(self.place / f"end-{name}")
