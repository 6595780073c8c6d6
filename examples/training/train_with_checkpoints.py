"""A trainer that saves very often, as many real programs do: one file, overwritten in place.

It solves a toy problem (fit a line by gradient descent). Its state is padded to `--megabytes` and
written chunk by chunk without a temporary file, and a log in the same folder stays open for the
whole run. An interrupted save leaves a torn file, from which the program refuses to resume.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

CHUNK = 1 << 20


def save(path: Path, state: dict[str, float], *, megabytes: int, pause: float) -> None:
    """Overwrite `path` in place: a line of JSON, the padding, and finally the digest of both."""
    head = json.dumps(state).encode() + b"\n"
    digest = hashlib.sha256(head)
    filler = random.Random(int(state["step"]))
    with path.open("wb") as stream:
        stream.write(head)
        for _ in range(megabytes):
            chunk = filler.randbytes(CHUNK)
            digest.update(chunk)
            stream.write(chunk)
            stream.flush()
            time.sleep(pause)
        stream.write(digest.digest())


def restore(path: Path) -> dict[str, float] | None:
    """Return the state, or None if there is none; exit if the file is torn."""
    if not path.exists():
        return None
    content = path.read_bytes()
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest:
        sys.exit(f"{path.name} is torn: its digest does not match")
    state: dict[str, float] = json.loads(body.split(b"\n", 1)[0])
    return state


def main() -> None:
    """Fit y = 3x + 2, saving every `--every` steps."""
    parser = argparse.ArgumentParser(description="A trainer that saves very often.")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=4)
    parser.add_argument("--step-seconds", type=float, default=0.05)
    parser.add_argument("--write-pause", type=float, default=0.0, help="seconds between chunks")
    parser.add_argument("--ignore-sigterm", action="store_true")
    arguments = parser.parse_args()

    folder = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR") or "checkpoints")
    outputs = Path(os.environ.get("RUNCTL_OUTPUT_DIR") or "outputs")
    metrics = Path(os.environ.get("RUNCTL_METRICS_FILE") or "metrics.jsonl")
    for path in (folder, outputs):
        path.mkdir(parents=True, exist_ok=True)
    stop = False

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, signal.SIG_IGN if arguments.ignore_sigterm else ask_to_stop)

    target = folder / "state.bin"
    state = restore(target) or {"step": 0, "slope": 0.0, "offset": 0.0}
    print(f"at step {int(state['step'])}", flush=True)
    with (folder / "train.log").open("a") as log:
        while state["step"] < arguments.steps and not stop:
            step = int(state["step"]) + 1
            points = random.Random(step)
            x = [points.uniform(-1, 1) for _ in range(16)]
            error = [state["slope"] * value + state["offset"] - (3 * value + 2) for value in x]
            state = {
                "step": step,
                "slope": state["slope"]
                - 0.2 * sum(e * v for e, v in zip(error, x, strict=True)) / 16,
                "offset": state["offset"] - 0.2 * sum(error) / 16,
            }
            time.sleep(arguments.step_seconds)
            loss = sum(e * e for e in error) / 16
            log.write(f"{step} {loss:.9f}\n")
            log.flush()
            with metrics.open("a") as stream:
                stream.write(json.dumps({"step": step, "loss": loss}) + "\n")
            if step % arguments.every == 0 or step == arguments.steps:
                save(target, state, megabytes=arguments.megabytes, pause=arguments.write_pause)
                print(f"saved step {step}", flush=True)
        if stop:
            save(target, state, megabytes=arguments.megabytes, pause=arguments.write_pause)
            print(f"asked to stop: saved step {int(state['step'])}", flush=True)
            return
    (outputs / "result.json").write_text(json.dumps(state))
    print("done", flush=True)


if __name__ == "__main__":
    main()
