# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=2,<3"]
# ///
"""An evaluation in plain NumPy: how well a network of `train_mnist.py` knows handwritten digits.

It runs anywhere: `python evaluate_model.py --checkpoint checkpoints/ --output results/`. The
checkpoint is a file of the trainer (`epoch-00020.npz`, or `weights.npz` of its outputs) or a folder
with such files, of which the newest counts. The test data is a CSV file or a folder of them, each
line the digit and its 64 pixels from 0 to 16; by default those of `data/test-digits`, on which the
trainer does not train.

It writes `metrics.json`, from which runctl takes the result of a run, and `confusion.csv`. In a run
it saves after each batch, so that an interrupted evaluation continues where it was.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
DIGITS = Path(__file__).parents[1] / "data" / "test-digits"


def find_checkpoint(place: Path) -> Path:
    """Return the file of a checkpoint: the newest one of a folder."""
    if place.is_file():
        return place
    found = sorted(place.rglob("*.npz"))
    if not found:
        sys.exit(f"{place} has no .npz file; give a checkpoint of train_mnist.py")
    return found[-1]


def load_weights(path: Path) -> Arrays:
    """Return the weights of a checkpoint, or of the trainer's final file."""
    with np.load(path) as state:
        names = {name.removeprefix("weight_"): name for name in state.files}
        missing = sorted({"w1", "b1", "w2", "b2"} - names.keys())
        if missing:
            sys.exit(f"{path} has no {', '.join(missing)}; give a checkpoint of train_mnist.py")
        return {name: state[names[name]] for name in ("w1", "b1", "w2", "b2")}


def load_digits(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 64) in 0..1 and labels (N,); the first line of a file names its columns."""
    files = [place] if place.is_file() else sorted(place.rglob("*.csv"))
    if not files:
        sys.exit(f"{place} has no .csv file; each line has the digit and its 64 pixels")
    tables = [np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) for path in files]
    table = np.concatenate(tables)
    return table[:, 1:] / 16.0, table[:, 0].astype(np.int64)


def probabilities(weights: Arrays, images: np.ndarray) -> np.ndarray:
    """Return the probability of each digit (N, 10)."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


class Progress:
    """What is counted so far, saved after each batch."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.json"
        self.done = 0
        self.loss = 0.0
        self.confusion = np.zeros((10, 10), dtype=np.int64)
        if self._path.exists():
            saved = json.loads(self._path.read_text())
            self.done, self.loss = saved["done"], saved["loss"]
            self.confusion = np.array(saved["confusion"])
            print(f"continues after {self.done} digits", flush=True)

    def add(self, odds: np.ndarray, labels: np.ndarray) -> None:
        """Count the answers about a batch."""
        self.done += len(labels)
        self.loss += float(-np.log(odds[np.arange(len(labels)), labels] + 1e-12).sum())
        np.add.at(self.confusion, (labels, odds.argmax(axis=1)), 1)

    def save(self) -> None:
        """Write the file under a temporary name and rename it, which is atomic."""
        saved = {"done": self.done, "loss": self.loss, "confusion": self.confusion.tolist()}
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(json.dumps(saved))
        temporary.replace(self._path)

    def metrics(self) -> dict[str, object]:
        """Return the result."""
        right = self.confusion.diagonal()
        counts = self.confusion.sum(axis=1)
        return {
            "accuracy": round(float(right.sum() / self.done), 4),
            "loss": round(self.loss / self.done, 4),
            "digits": self.done,
            "recall": {str(n): round(float(right[n] / max(1, counts[n])), 4) for n in range(10)},
        }


def main() -> None:
    """Evaluate the checkpoint, batch after batch."""
    parser = argparse.ArgumentParser(description="Evaluate a digit classifier.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="File or folder")
    parser.add_argument("--test-data", type=Path, default=DIGITS, help="File or folder")
    parser.add_argument("--output", type=Path, help="Folder for the results")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--batch-seconds", type=float, default=0, help="Duration of a batch, as of a larger model"
    )
    arguments = parser.parse_args()

    output = arguments.output or Path(os.environ.get("RUNCTL_OUTPUT_DIR") or "outputs")
    saves = Path(os.environ.get("RUNCTL_CHECKPOINT_DIR") or output)
    metrics_file = os.environ.get("RUNCTL_METRICS_FILE")
    for folder in (output, saves):
        folder.mkdir(parents=True, exist_ok=True)
    path = find_checkpoint(arguments.checkpoint)
    weights = load_weights(path)
    images, labels = load_digits(arguments.test_data)
    print(f"evaluating {path.name} on {len(labels)} digits", flush=True)

    progress = Progress(saves)
    while progress.done < len(labels):
        batch = slice(progress.done, progress.done + arguments.batch)
        progress.add(probabilities(weights, images[batch]), labels[batch])
        time.sleep(arguments.batch_seconds)
        progress.save()
        if metrics_file:
            with Path(metrics_file).open("a") as stream:
                stream.write(json.dumps({"step": progress.done}) + "\n")

    metrics = progress.metrics()
    np.savetxt(output / "confusion.csv", progress.confusion, fmt="%d", delimiter=",")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2))
    print(f"accuracy {metrics['accuracy']:.2%}  loss {metrics['loss']:.4f}", flush=True)


if __name__ == "__main__":
    main()
