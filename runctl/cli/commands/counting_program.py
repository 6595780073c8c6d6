"""The program of `runctl verify --run`: it counts, and saves where it is; packed as a file."""

import sys
import time
from pathlib import Path

from runctl import training


def count(steps: int, seconds: float) -> None:
    """Count from the newest checkpoint, or from 0, to `steps`; each step takes some seconds."""
    found = training.restore()
    step = found.step if found else 0

    def write(path: Path) -> None:
        path.write_text(str(step))

    while step < steps and not training.should_stop():
        time.sleep(seconds)
        step += 1
        training.report(step, counted=step)
        if training.should_save(every=10 * seconds):
            training.save(write, step, keep=2)
    training.save(write, step, keep=2)


if __name__ == "__main__":
    count(int(sys.argv[1]), float(sys.argv[2]))
