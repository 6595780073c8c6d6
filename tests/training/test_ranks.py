"""Several ranks stop and save together, whichever of them received the signal."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from runctl.agent.gang.pulses import GangProgram, Pulses
from runctl.agent.instance import processes
from runctl.model.gang import GangReport, RankPulse
from runctl.model.node import Node, NodeProgress
from runctl.policy.gang_facts import Failed, Hung, NodeFacts
from runctl.policy.gang_health import judge
from tests.agent.machine import wait_until
from tests.training.place import Place, read_line
from tests.training.programs import LIGHTNING

pytestmark = pytest.mark.slow

RANK = """
    import os, signal, torch
    from runctl import training
    from runctl.hooks.pytorch import all_should_save, all_should_stop
    torch.distributed.init_process_group("gloo", init_method="file://" + os.environ["MEETING"],
                                         rank=int(os.environ["RANK"]), world_size=2)
    step, stop = 0, False
    while not stop:
        step += 1
        save = all_should_save(every=0.0 if step == 3 else None)
        if step == 3 and os.environ["RANK"] == os.environ["SIGNALLED"]:
            os.kill(os.getpid(), signal.SIGTERM)
        if save:
            training.save(lambda path: path.write_text(str(step)), step)
        stop = all_should_stop()
    # What was saved for the stop is not saved again.
    print(step, training.should_stop(), all_should_save(), all_should_stop(), flush=True)
    torch.distributed.barrier()
"""


@pytest.mark.parametrize("signalled", [0, 1])
def test_ranks_save_the_step_at_which_they_stop_if_a_signal_arrives_between_the_agreements(
    place: Place, frameworks: Path, signalled: int
) -> None:
    variables = {"SIGNALLED": str(signalled), "MEETING": str(place.root / "meeting")}
    ranks = [place.start(RANK, python=frameworks, RANK=str(rank), **variables) for rank in (0, 1)]
    for rank in ranks:
        out, err = rank.communicate(timeout=240)
        assert out == "4 True False True\n", err
    assert place.names() == ["step-000000003", "step-000000004"]


def test_the_end_of_a_rank_waits_for_a_thread_that_still_holds_the_tensor_of_an_agreement(
    place: Place, frameworks: Path
) -> None:
    """A thread of Gloo that releases it while the interpreter ends aborts the process."""
    program = """
        import atexit, os, threading, time, torch
        from runctl.hooks.pytorch import any_rank
        child = os.fork()
        held, all_reduce = [], torch.distributed.all_reduce
        if child:
            atexit.register(lambda: print("held:", len(held), flush=True))  # runs last
        torch.distributed.init_process_group("gloo", init_method="file://" + os.environ["MEETING"],
                                             rank=int(child == 0), world_size=2)
        def hold(tensor, **options):
            held.append(tensor)
            all_reduce(tensor, **options)
        torch.distributed.all_reduce = hold
        assert any_rank(False, child == 0) == (False, True)
        assert any_rank(False, False) == (False, False)
        torch.distributed.barrier()
        if child:
            os.wait()
            threading.Thread(target=lambda: (time.sleep(0.3), held.clear()), daemon=True).start()
        else:
            held.clear()
    """
    assert place.run(program, python=frameworks, MEETING=str(place.root / "meeting")) == "held: 0\n"


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
            if step == 1:
                print(os.getpid(), flush=True)
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


class GangNode:
    """A launcher that runs one rank, with the agent's view of it."""

    def __init__(self, place: Place, python: Path, rank: int, port: int) -> None:
        pulses = place.root / f"pulses-{rank}"
        pulses.mkdir()
        self.rank = rank
        self.launcher = place.start(
            "import runpy; runpy.run_module('torch.distributed.run', run_name='__main__')",
            *("--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--rdzv-backend=static"),
            *("--master-addr=127.0.0.1", f"--master-port={port}", str(place.root / "train.py")),
            python=python,
            OMP_NUM_THREADS="1",
            RUNCTL_PULSE_DIR=str(pulses),
        )
        self.ahead = 0.0  # of the agent's clock
        self.pulses = Pulses(pulses, clock=lambda: time.monotonic() + self.ahead)
        pids = partial(processes.descendants, self.launcher.pid)
        self.pulses.begin(GangProgram(pids=pids, address="127.0.0.1", port=port))

    def pulse(self) -> RankPulse:
        return next(iter(self.pulses.read()), RankPulse())

    def worker(self) -> int:
        return int(read_line(self.launcher).split()[-1])

    def facts(self, *, running_for: float = 0.0) -> NodeFacts:
        report = GangReport(ranks=(self.pulse(),))
        node = Node(
            run_id="run-1",
            attempt=1,
            rank=self.rank,
            instance_id=f"i-{self.rank}",
            progress=NodeProgress(gang=report),
        )
        return NodeFacts(node=node, is_own=True, step_seconds=0.1, running_for=running_for)


def wait_for_launchers(nodes: list[GangNode]) -> None:
    """Wait for all launchers, or for the first that fails: the others wait for that one longer."""

    def have_ended() -> bool:
        codes = [node.launcher.poll() for node in nodes]
        return None not in codes or any(codes)

    wait_until(have_ended, 240)
    for node in nodes:
        if node.launcher.returncode is not None:
            _, err = node.launcher.communicate()
            assert node.launcher.returncode == 0, err


def test_ranks_of_two_nodes_are_seen_hang_and_stop_together(place: Place, frameworks: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place.root / "train.py").write_text(textwrap.dedent(GANG))
    nodes = [GangNode(place, frameworks, rank, port) for rank in (0, 1)]
    first, second = nodes
    workers = [node.worker() for node in nodes]
    wait_until(lambda: min(node.pulse().left for node in nodes) >= 10, 240)
    assert all(node.pulse().has_joined for node in nodes)
    # The first has waited for the second in each step.
    assert first.pulse().busy_seconds < second.pulse().busy_seconds / 2
    assert judge([node.facts() for node in nodes]) is None

    os.kill(workers[1], signal.SIGSTOP)
    wait_until(lambda: second.pulse().is_suspended)
    for node in nodes:
        node.pulse()
        node.ahead = 100.0
    verdict = judge([node.facts() for node in nodes])
    assert isinstance(verdict, Hung)
    assert verdict.ranks == (1,)

    os.kill(workers[1], signal.SIGCONT)
    os.kill(workers[1], signal.SIGTERM)
    wait_for_launchers(nodes)
    ends = [(place.root / f"end-{rank}").read_text() for rank in (0, 1)]
    assert ends[0] == ends[1]
    assert ends[0].endswith("True")
    assert place.names() == [f"step-{int(ends[0].split()[0]):09d}"]


def test_ranks_that_never_join_are_not_mistaken_for_their_launchers_which_have(
    place: Place, frameworks: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = """
        import os, time
        launcher = os.getppid()
        print(os.getpid(), flush=True)
        while os.getppid() == launcher:
            time.sleep(0.05)
    """
    (place.root / "train.py").write_text(textwrap.dedent(program))
    nodes = [GangNode(place, frameworks, rank, port) for rank in (0, 1)]
    for node in nodes:
        node.worker()  # its launcher has met the other one
        assert not node.pulse().has_joined
    assert judge([node.facts(running_for=60.0) for node in nodes]) is None
    verdict = judge([node.facts(running_for=1801.0) for node in nodes])
    assert isinstance(verdict, Failed)
    assert "call it at its start, or remove nodes" in verdict.reason


def test_a_group_is_joined_only_by_several_ranks_and_has_the_backend_of_the_machine(
    place: Place, frameworks: Path
) -> None:
    program = """
        import os, torch
        from runctl.hooks.pytorch import all_should_save, all_should_stop, process_group
        with process_group():
            print(all_should_save(), all_should_save(every=0.0), all_should_stop())
        os.environ |= {"RANK": "0", "RUNCTL_BACKEND": "gloo"}
        meeting = "file://" + os.path.abspath("meeting")
        with process_group(init_method=meeting, rank=0, world_size=1):
            print(torch.distributed.get_backend())
        print(torch.distributed.is_initialized())
    """
    printed = place.run(program, python=frameworks).splitlines()
    assert printed == ["False True False", "gloo", "False"]


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
