# /// script
# requires-python = ">=3.10"
# dependencies = ["fastapi>=0.110", "numpy>=2,<3", "uvicorn>=0.30"]
# ///
"""An inference server: FastAPI around the digit classifier that train_mnist.py trains.

`--checkpoint` is one of its files: a checkpoint (`epoch-00020.npz`), its result (`weights.npz`), or
a folder with some of them, of which the newest counts. It runs without runctl as well:
`python inference_server.py --checkpoint outputs/weights.npz --port 8080`.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

NAMES = ("w1", "b1", "w2", "b2")


class Digits(BaseModel):
    """Images of 8×8 pixels, each as 64 numbers from 0 to 1."""

    images: list[list[float]]


def load(path: Path) -> dict[str, np.ndarray]:
    """Return the weights of a checkpoint."""
    if path.is_dir():
        found = sorted(path.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        if not found:
            sys.exit(f"{path} has no .npz file")
        path = found[-1]
    with np.load(path) as state:
        prefix = "" if "w1" in state.files else "weight_"
        missing = [name for name in NAMES if f"{prefix}{name}" not in state.files]
        if missing:
            sys.exit(f"{path} is not a checkpoint of train_mnist.py: {', '.join(missing)} missing")
        return {name: state[f"{prefix}{name}"] for name in NAMES}


def make_app(weights: dict[str, np.ndarray]) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Digits")
    inputs = weights["w1"].shape[0]

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "attempt": os.environ.get("RUNCTL_ATTEMPT", "")}

    @app.post("/predict")
    def predict(digits: Digits) -> dict[str, list[int]]:
        if any(len(image) != inputs for image in digits.images):
            raise HTTPException(422, f"an image has {inputs} numbers")
        images = np.array(digits.images).reshape(-1, inputs)
        hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
        return {"digits": (hidden @ weights["w2"] + weights["b2"]).argmax(axis=1).tolist()}

    return app


def main() -> None:
    """Serve until SIGTERM, after which uvicorn answers what it has accepted."""
    parser = argparse.ArgumentParser(description="Serve the digit classifier.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    app = make_app(load(arguments.checkpoint))
    # Only the machine itself reaches this address: runctl forwards requests to it.
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, access_log=False)


if __name__ == "__main__":
    main()
