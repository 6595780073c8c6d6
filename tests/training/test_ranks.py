"""Several ranks stop and save together, whichever of them received the signal."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest

from runctl.agent.gang.pulses import GangProgram, Pulses
from runctl.agent.instance import processes
from tests.agent.machine import wait_until
from tests.training.place import Place, read_line, read_until
from tests.training.programs import LIGHTNING

pytestmark = pytest.mark.slow

RANK = """
    import os, time, torch
    from runctl import training
    from runctl.hooks.pytorch import any_rank
    torch.distributed.init_process_group("gloo", init_method="file://" + os.environ["MEETING"],
                                         rank=int(os.environ["RANK"]), world_size=2)
    step, save, stop = 0, False, False
    while not stop:
        time.sleep(0.01)
        step += 1
        print("step", step, flush=True)
        save, stop = any_rank(training.should_save(), training.should_stop())
        if save:
            training.save(lambda path: path.write_text(str(step)), step)
    print("stopped at", step, flush=True)
    torch.distributed.destroy_process_group()
"""


def test_all_ranks_stop_at_the_step_at_which_one_heard_sigterm(
    place: Place, frameworks: Path
) -> None:
    meeting = str(place.root / "meeting")
    ranks = [
        place.start(RANK, python=frameworks, RANK=str(rank), MEETING=meeting) for rank in (0, 1)
    ]
    read_until(ranks[1], "step 3")
    ranks[1].send_signal(signal.SIGTERM)
    ends = [rank.communicate(timeout=240)[0].splitlines()[-1] for rank in ranks]
    assert ends[0] == ends[1]
    assert place.names() == [f"step-{int(ends[0].split()[-1]):09d}"]


def test_all_ranks_of_lightning_stop_when_the_first_hears_sigterm(
    place: Place, frameworks: Path
) -> None:
    # Lightning's own handler broadcasts from within the signal, and may wait there forever.
    program = LIGHTNING.replace('accelerator="cpu"', 'accelerator="cpu", devices=2, strategy="ddp"')
    program = program.replace("flush=True)", 'file=open(f"rank-{self.global_rank}", "a"))', 1)
    first = place.start(program, "0.02", python=frameworks)

    def steps(rank: int) -> list[str]:
        output = place.root / f"rank-{rank}"
        return output.read_text().splitlines() if output.exists() else []

    wait_until(lambda: "step 4" in steps(0))  # each rank loads its framework
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=240)
    assert first.returncode == 0, err
    assert steps(0) == steps(1)
    assert len(steps(0)) < 30
    assert place.names() == [f"step-{len(steps(0)):09d}.ckpt"]


GANG = """
    import os, sys, time, torch
    from runctl import training
    from runctl.hooks.pytorch import all_should_save, all_should_stop, measure, process_group
    with process_group("gloo"):
        rank = os.environ["RANK"]
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
        measure(model)
        step = 0
        while True:
            if rank == "1":
                time.sleep(0.05)
            model(torch.ones(1, 2)).sum().backward()
            step += 1
            print("step", step, rank, os.getpid(), flush=True)
            if all_should_save():
                training.save(lambda path: path.write_text(str(step)), step)
            if all_should_stop():
                break
        with open(f"end-{rank}", "w") as file:
            file.write(f"{step} {training.should_stop()}")
        if rank == "0":
            time.sleep(0.5)  # the other rank does not leave before
            sys.exit(0)
"""


def test_ranks_of_torchrun_stop_together_and_runctl_sees_them(
    place: Place, frameworks: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = place.root / "train.py"
    script.write_text(textwrap.dedent(GANG))
    launcher = place.start(
        "import runpy; runpy.run_module('torch.distributed.run', run_name='__main__')",
        *("--nnodes=1", "--nproc-per-node=2", "--node-rank=0", "--rdzv-backend=static"),
        *("--master-addr=127.0.0.1", f"--master-port={port}", str(script)),
        python=frameworks,
        OMP_NUM_THREADS="1",
        RUNCTL_PULSE_DIR=str(place.root),
    )
    pulses = Pulses(place.root)
    pulses.begin(
        GangProgram(
            pids=lambda: processes.descendants(os.getpid()),
            address="127.0.0.1",
            port=port,
            ranks=2,
        )
    )
    workers: dict[str, int] = {}
    while len(workers) < 2 or max(pulse.left for pulse in pulses.read()) < 10:
        match read_line(launcher).split():
            case ["step", _, rank, pid]:
                workers[rank] = int(pid)
            case _:
                assert launcher.poll() is None
    first, second = pulses.read()
    assert first.has_joined
    assert second.has_joined
    # The first has waited for the second in each step.
    assert first.busy_seconds < second.busy_seconds / 2
    os.kill(workers["1"], signal.SIGTERM)
    _, err = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, err
    ends = [(place.root / f"end-{rank}").read_text() for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0].endswith("True")
    (saved,) = place.names()
    assert saved == f"step-{int(ends[0].split()[0]):09d}"


def test_a_single_process_needs_no_group(place: Place, frameworks: Path) -> None:
    program = """
        from runctl.hooks.pytorch import all_should_save, all_should_stop, process_group
        with process_group("gloo"):
            print(all_should_save(), all_should_save(every=0.0), all_should_stop())
    """
    assert place.run(program, python=frameworks) == "False True False\n"


def test_only_the_first_rank_of_all_nodes_saves(place: Place) -> None:
    program = "from runctl import training; print(training.is_main)"
    for variables, is_main in [
        ({"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "1"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "0"}, True),
        ({}, True),
    ]:
        assert place.run(program, **variables) == f"{is_main}\n"


def test_the_pulse_of_a_step_costs_little(place: Place) -> None:
    """Its processor time is measured, which does not depend on what else the machine does."""
    program = """
        import time
        from runctl.hooks.pulse import pulse
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            for _ in range(2000):
                pulse.begin()
                pulse.end()
            best = min(best, (time.process_time() - began) / 2000)
        print(best)
    """
    # 2 microseconds on a small machine.
    assert float(place.run(program, RUNCTL_PULSE_DIR=str(place.root))) < 50e-6
