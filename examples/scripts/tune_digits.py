# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=2,<3", "scikit-learn>=1.5"]
# ///
"""Train a digit classifier with the hyperparameters of a trial, on data that scikit-learn contains.

`runctl aws hyperparameter-tune` passes them as arguments. After each epoch the script saves, and
reports the loss on data that it does not train on, by which trials are compared.
"""

import argparse
import json
import os
import pathlib
import pickle

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = pathlib.Path(os.environ.get("RUNCTL_CHECKPOINT_DIR", "checkpoints"))
METRICS = pathlib.Path(os.environ.get("RUNCTL_METRICS_FILE", "metrics.jsonl"))


def main() -> None:
    """Train from the newest checkpoint, if there is one, to the last epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.3, random_state=0)
    train_x, test_x, train_y, test_y = split
    epoch, model = restore() or (
        0,
        MLPClassifier(
            (options.hidden,),
            learning_rate_init=options.learning_rate,
            batch_size=options.batch_size,
            random_state=0,
        ),
    )
    while epoch < options.epochs:
        epoch += 1
        order = np.random.default_rng(epoch).permutation(len(train_x))
        for at in range(0, len(order), options.batch_size):
            chosen = order[at : at + options.batch_size]
            model.partial_fit(train_x[chosen], train_y[chosen], classes=range(10))
        loss = log_loss(test_y, model.predict_proba(test_x), labels=range(10))
        accuracy = model.score(test_x, test_y)
        save(epoch, model)
        with METRICS.open("a") as lines:
            print(
                json.dumps({"step": epoch, "val_loss": loss, "accuracy": accuracy}),
                file=lines,
                flush=True,
            )
        print(f"epoch {epoch}: val_loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)


def restore() -> tuple[int, MLPClassifier] | None:
    """Return the last epoch that was saved and its model."""
    try:
        return pickle.loads((FOLDER / "model.pkl").read_bytes())  # noqa: S301 - our own file
    except FileNotFoundError:
        return None


def save(epoch: int, model: MLPClassifier) -> None:
    """Save under another name first, so that the file is whole at any time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / "model.pkl.partial"
    partial.write_bytes(pickle.dumps((epoch, model)))
    partial.replace(FOLDER / "model.pkl")


if __name__ == "__main__":
    main()
