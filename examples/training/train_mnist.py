# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=2,<3", "scikit-learn>=1.5"]
# ///
"""A trainer in plain NumPy: a small network learns handwritten digits.

It depends on runctl only through the environment variables of the trainer contract, and runs
without them as well: `python train_mnist.py --epochs 5`. The checkpoint contains everything that
determines the result (weights, momentum, random state, position in the data), so an interrupted run
ends with exactly the same bits as an uninterrupted one.

The digits are the 1,797 images of 8×8 that scikit-learn packages; `--data DIR` reads MNIST's own
four files (`train-images-idx3-ubyte.gz` and so on) instead.
"""

import argparse
import gzip
import hashlib
import importlib.util
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

# One thread: a different order of summation would give different bits on another machine.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402

Arrays = dict[str, np.ndarray]


class Stop:
    """Records that SIGTERM has arrived: save at the next step, then exit."""

    requested = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


def load_packaged_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (1797, 64) in 0..1 and labels (1797,), read from scikit-learn's own file."""
    package = importlib.util.find_spec("sklearn")  # importing it would take seconds
    if package is None or package.origin is None:
        sys.exit(
            "scikit-learn, which contains the digits, is missing: install it or pass --data DIR"
        )
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1] / 16.0, table[:, -1].astype(np.int64)


def read_idx(path: Path) -> np.ndarray:
    """Read a file in MNIST's format: two zero bytes, type, number of axes, sizes, values."""
    with gzip.open(path, "rb") as stream:
        content = stream.read()
    axes = content[3]
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def load_digits(folder: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images, training labels, test images and test labels."""
    if folder is not None:
        images, tests = (
            read_idx(folder / f"{part}-images-idx3-ubyte.gz").reshape(-1, 784) / 255.0
            for part in ("train", "t10k")
        )
        labels, answers = (
            read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)
            for part in ("train", "t10k")
        )
        return images, labels, tests, answers
    images, labels = load_packaged_digits()
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def first_weights(rng: np.random.Generator, inputs: int, hidden: int) -> Arrays:
    """Return initial weights by He initialization: normal with variance 2 / fan-in."""
    return {
        "w1": rng.normal(0, np.sqrt(2 / inputs), (inputs, hidden)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
        "b2": np.zeros(10),
    }


def gradients(weights: Arrays, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
    """Return the mean cross-entropy of a batch and its gradient."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(odds[rows, labels] + 1e-12).mean()
    odds[rows, labels] -= 1
    odds /= len(labels)
    back = (odds @ weights["w2"].T) * (hidden > 0)
    return float(loss), {
        "w1": images.T @ back,
        "b1": back.sum(axis=0),
        "w2": hidden.T @ odds,
        "b2": odds.sum(axis=0),
    }


def accuracy(weights: Arrays, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of digits that are classified correctly."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    return float((scores.argmax(axis=1) == labels).mean())


def save(
    folder: Path,
    epoch: int,
    weights: Arrays,
    momentum: Arrays,
    rng: np.random.Generator,
    *,
    seconds: float,
) -> None:
    """Write `epoch-N.npz` under a temporary name and rename it, which is atomic."""
    target = folder / f"epoch-{epoch:05d}.npz"
    temporary = target.with_suffix(".partial")
    content = io.BytesIO()
    np.savez(
        content,
        epoch=np.array(epoch),
        rng=np.array(json.dumps(rng.bit_generator.state)),
        **{f"weight_{key}": value for key, value in weights.items()},
        **{f"momentum_{key}": value for key, value in momentum.items()},
    )
    chunks = 10
    size = -(-content.tell() // chunks)
    with temporary.open("wb") as stream:
        for start in range(0, content.tell(), size):
            stream.write(content.getbuffer()[start : start + size])
            stream.flush()
            time.sleep(seconds / chunks)
        os.fsync(stream.fileno())
    temporary.replace(target)
    for old in sorted(folder.glob("epoch-*.npz"))[:-2]:
        old.unlink()


def restore(folder: Path, rng: np.random.Generator) -> tuple[int, Arrays, Arrays] | None:
    """Return epochs, weights and momentum of the newest checkpoint, and restore `rng`."""
    saved = sorted(folder.glob("epoch-*.npz"))
    if not saved:
        return None
    with np.load(saved[-1]) as state:
        rng.bit_generator.state = json.loads(str(state["rng"]))
        weights = {key[7:]: state[key] for key in state.files if key.startswith("weight_")}
        momentum = {key[9:]: state[key] for key in state.files if key.startswith("momentum_")}
        return int(state["epoch"]), weights, momentum


def main() -> None:
    """Train from the newest checkpoint, or from the start, to the last epoch."""
    parser = argparse.ArgumentParser(description="Train a digit classifier with plain NumPy.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, help="Folder with MNIST's own four files")
    parser.add_argument(
        "--epoch-seconds", type=float, default=0, help="Minimum duration of an epoch"
    )
    parser.add_argument(
        "--save-seconds", type=float, default=0, help="Duration of a save, to simulate slow storage"
    )
    arguments = parser.parse_args()

    checkpoints = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR") or "checkpoints")
    outputs = Path(os.environ.get("RUNCTL_OUTPUT_DIR") or "outputs")
    metrics = Path(os.environ.get("RUNCTL_METRICS_FILE") or "metrics.jsonl")
    for folder in (checkpoints, outputs):
        folder.mkdir(parents=True, exist_ok=True)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop)

    images, labels, test_images, test_labels = load_digits(arguments.data)
    rng = np.random.default_rng(arguments.seed)
    if restored := restore(checkpoints, rng):
        done, weights, momentum = restored
        print(f"resumed after epoch {done}", flush=True)
    else:
        done, weights = 0, first_weights(rng, images.shape[1], arguments.hidden)
        momentum = {key: np.zeros_like(value) for key, value in weights.items()}
        print(f"starting with {len(images)} digits", flush=True)

    for epoch in range(done + 1, arguments.epochs + 1):
        started, losses = time.monotonic(), []
        order = rng.permutation(len(images))
        for batch in np.array_split(order, max(1, len(order) // arguments.batch)):
            loss, slope = gradients(weights, images[batch], labels[batch])
            losses.append(loss)
            for key in weights:
                momentum[key] = 0.9 * momentum[key] - arguments.rate * slope[key]
                weights[key] = weights[key] + momentum[key]
        while time.monotonic() - started < arguments.epoch_seconds and not stop.requested:
            time.sleep(0.01)
        save(checkpoints, epoch, weights, momentum, rng, seconds=arguments.save_seconds)
        report = {
            "step": epoch,
            "loss": round(float(np.mean(losses)), 6),
            "accuracy": round(accuracy(weights, test_images, test_labels), 4),
        }
        with metrics.open("a") as stream:
            stream.write(json.dumps(report) + "\n")
        print(
            f"epoch {epoch}/{arguments.epochs}  "
            f"loss {report['loss']:.4f}  accuracy {report['accuracy']:.2%}",
            flush=True,
        )
        if stop.requested and epoch < arguments.epochs:
            print(f"asked to stop: saved epoch {epoch}", flush=True)
            return

    final = outputs / "weights.npz"
    np.savez(final, **weights)
    digest = hashlib.sha256(b"".join(weights[key].tobytes() for key in sorted(weights))).hexdigest()
    (outputs / "result.json").write_text(
        json.dumps(
            {
                "epochs": arguments.epochs,
                "weights_sha256": digest,
                "accuracy": accuracy(weights, test_images, test_labels),
            }
        )
    )
    print(f"done: weights {digest[:16]}", flush=True)


if __name__ == "__main__":
    main()
