"""A run of two nodes on two machines, each with a network of its own that a bridge joins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runctl.model.outcome import OutcomeKind
from tests.machine.machines import MachineRun, Machines, only_in_test_machine

pytestmark = [only_in_test_machine, pytest.mark.e2e]

STEPS = 20
# What torchrun and NCCL need of the machines: the first node is reached at the address and the port
# of the rendezvous, and every node at a port of its own choice. Rank 0 adds the steps of both. In
# the first attempt they go on until both are asked to end, in the second for some steps more.
PROGRAM = """
import json, os, pathlib, signal, socket, time

rank, is_first = int(os.environ["NODE_RANK"]), os.environ["RUNCTL_ATTEMPT"] == "1"
master = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

def meet():
    if rank == 0:
        with socket.create_server(master) as listener:
            return listener.accept()[0]
    while True:
        try:
            return socket.create_connection(master, timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.1)

def ask_for_credentials():
    try:
        socket.create_connection(("169.254.169.254", 80), timeout=5).close()
        return "reached"
    except ConnectionRefusedError:
        return "refused"

def exchange(mine):
    lines.write(json.dumps(mine) + "\\n")
    lines.flush()
    return json.loads(lines.readline())

connection = meet()
lines = connection.makefile("rw")
own = connection.getsockname()[0]
back = socket.create_server((own, 0))
mine = {"uid": os.getuid(), "metadata": ask_for_credentials(), "address": own,
        "port": back.getsockname()[1], "nodes": os.environ["NNODES"],
        "name": socket.gethostbyname(socket.gethostname())}
theirs = exchange(mine)
# In the other direction, too.
if rank == 0:
    reached = socket.create_connection((theirs["address"], theirs["port"]), timeout=60)
    reached.recv(1)
    print("met", json.dumps([master[0], mine, theirs]), flush=True)
else:
    back.accept()[0].sendall(b"x")
saved = sorted(folder.glob("step-*.json")) if rank == 0 else []
step, total = json.loads(saved[-1].read_text()) if saved else (0, 0)
step = max(step, exchange(step))
print("begins at step", step, flush=True)
last = step + STEPS
while is_first or step < last:
    is_asked = bool(asked)
    if exchange(is_asked) and is_asked:
        break
    step += 1
    total += step + exchange(step)
    if rank == 0:
        new = folder / "new"
        new.write_text(json.dumps([step, total]))
        new.rename(folder / f"step-{step:06}.json")
    time.sleep(0.2 if is_first else 0)
print("ended at step", step, flush=True)
if rank == 0 and not is_first:
    pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "total").write_text(str(total))
""".replace("STEPS", str(STEPS))


def addresses_of(run: MachineRun, instance_ids: tuple[str, ...]) -> list[str]:
    ec2 = run.testbed.clients.get("ec2")
    found = [ec2.describe_instances(InstanceIds=[each])["Reservations"] for each in instance_ids]
    return [reservations[0]["Instances"][0]["PrivateIpAddress"] for reservations in found]


def met(run: MachineRun, attempt: int) -> list[Any]:
    """Return what the ranks of an attempt have told each other."""
    log = run.testbed.log(run.run_id, attempt)
    (line,) = [line for line in log if line.startswith("met ")]
    found: list[Any] = json.loads(line.removeprefix("met "))
    return found


def check_places(run: MachineRun, attempt: int, addresses: list[str]) -> None:
    """Check where the ranks were, and what they could reach there."""
    master, *ranks = met(run, attempt)
    assert master == addresses[0]
    for found, address in zip(ranks, addresses, strict=True):
        assert found["address"] == found["name"] == address
        assert (found["uid"], found["metadata"], found["nodes"]) == (58113, "refused", "2")


def test_nodes_on_two_machines_reach_each_other_and_resume_with_another_machine(
    machines: Machines,
) -> None:
    testbed = machines.testbed
    testbed.cloud.set_knobs(own_networks=True)
    code = testbed.upload_project({"train.py": PROGRAM})
    run = machines.start_request({"code": code, "command": ["python3", "train.py"], "nodes": 2})
    run.wait_for_training(step=3)
    (first,) = testbed.attempts(run.run_id)
    places = addresses_of(run, first.instance_ids)
    testbed.cloud.interrupt(first.instance_ids[1], notice_seconds=15)
    status = run.wait_for_end()

    story = testbed.story(run.run_id)
    assert status == "SUCCEEDED", story
    first, second = testbed.attempts(run.run_id)
    assert first.ended is not None
    assert (first.ended.kind, second.resume_step) == (OutcomeKind.INTERRUPTED, first.ended.step)
    check_places(run, 1, places)
    assert f"begins at step {second.resume_step}" in testbed.log(run.run_id, 2), story
    assert second.resume_step is not None
    last = second.resume_step + STEPS
    assert testbed.output(run.run_id, "total") == str(last * (last + 1)).encode()
