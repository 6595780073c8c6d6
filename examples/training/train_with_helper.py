# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=2,<3"]
# ///
"""A trainer that uses runctl's helper: fit a line with momentum in plain NumPy.

On the instance `from runctl import training` works without installation. Outside runctl,
`PYTHONPATH=. python examples/training/train_with_helper.py` saves to ./checkpoints, and resumes
from there when it is started again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from runctl import training


def write(path: Path, weights: np.ndarray, speed: np.ndarray, rng: np.random.Generator) -> None:
    """Write everything that determines the result: weights, momentum, random state."""
    state = json.dumps(rng.bit_generator.state)
    np.savez(path, weights=weights, speed=speed, rng=np.array(state))


def read(path: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Read weights and momentum, and set the random state."""
    with np.load(path) as state:
        rng.bit_generator.state = json.loads(str(state["rng"]))
        return state["weights"], state["speed"]


def main() -> None:
    """Train from the newest checkpoint, or from the start, to the last step."""
    parser = argparse.ArgumentParser(description="Fit y = 3x + 2 with runctl's helper.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=float, default=5, help="Seconds between saves")
    parser.add_argument("--step-seconds", type=float, default=0, help="Minimum duration of a step")
    arguments = parser.parse_args()

    rng = np.random.default_rng(7)
    weights, speed, step = np.zeros(2), np.zeros(2), 0
    if found := training.restore():
        (weights, speed), step = read(found.path, rng), found.step
        print(f"resumed at step {step}", flush=True)

    def save() -> None:
        training.save(lambda path: write(path, weights, speed, rng), step, suffix=".npz", keep=2)

    while step < arguments.steps and not training.should_stop():
        time.sleep(arguments.step_seconds)
        x = rng.uniform(-1, 1, 16)
        error = weights[0] * x + weights[1] - (3 * x + 2 + rng.normal(0, 0.1, 16))
        speed = 0.9 * speed - 0.02 * np.array([(error * x).mean(), error.mean()])
        weights = weights + speed
        step += 1
        print(f"step {step}", flush=True)
        training.report(step, loss=(error**2).mean())
        if training.should_save(every=arguments.every):
            save()
    save()
    if step == arguments.steps:
        training.output_dir.mkdir(parents=True, exist_ok=True)
        (training.output_dir / "model.json").write_text(json.dumps(weights.tolist()))
        print("done", flush=True)


if __name__ == "__main__":
    main()
