"""Several ranks stop and save together, whichever of them heard of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.training.place import Place, read_until

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


@pytest.mark.parametrize("told", [0, 1])
def test_all_ranks_stop_at_the_step_at_which_one_heard_sigterm(
    place: Place, frameworks: Path, told: int
) -> None:
    meeting = str(place.root / "meeting")
    ranks = [
        place.start(RANK, python=frameworks, RANK=str(rank), MEETING=meeting) for rank in (0, 1)
    ]
    read_until(ranks[told], "step 3")
    ranks[told].send_signal(signal.SIGTERM)
    ends = [rank.communicate(timeout=30)[0].splitlines()[-1] for rank in ranks]
    assert ends[0] == ends[1]
    assert place.names() == [f"step-{int(ends[0].split()[-1]):09d}"]
