"""Several ranks stop and save together, whichever of them received the signal."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.agent.machine import wait_until
from tests.training.place import Place, read_until
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
