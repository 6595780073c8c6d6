"""The history of a run's metrics over its steps, from what its agents have stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from runctl.model import identity
from runctl.model.errors import NotFoundError
from runctl.model.evaluation_history import FILE, read_history
from runctl.model.metrics import read_metrics
from runctl.model.result_metrics import flat_metrics
from runctl.model.run import Run

if TYPE_CHECKING:
    from runctl.aws.blobs import Blobs

# Steps with their values, in the order of the steps.
History = tuple[tuple[float, float], ...]

# Of a run of weeks, the end is enough.
MAX_OBJECTS = 2000
_READERS = 16


def read_histories(blobs: Blobs, run: Run) -> dict[str, History]:
    """Return the history of each metric of a run; without a step, its lines are counted.

    Of a gang, it is that of the nodes of rank 0.

    Of an evaluation of every checkpoint, they are its results over the steps of the other run.
    """
    if run.request.evaluate.every_checkpoint:
        return _of_evaluations(blobs, run.run_id)
    keys = blobs.keys(identity.all_metrics_prefix(run.run_id))
    keys = [key for key in keys if identity.is_of_first_rank(key)][-MAX_OBJECTS:]
    with ThreadPoolExecutor(_READERS) as pool:
        chunks = pool.map(lambda key: _read(blobs, key), keys)
    lines = (line for chunk in chunks for line in chunk.decode(errors="replace").splitlines())
    return _sorted(_points(lines))


def _points(lines: Iterable[str]) -> dict[str, dict[float, float]]:
    """Return the values by name and step; a repeated step replaces that of an earlier attempt."""
    points: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, start=1):
        measured = read_metrics(line)
        if measured is None:
            continue
        step = number if measured.step is None else measured.step
        for name, value in measured.values.items():
            if name != "step":
                points.setdefault(name, {})[step] = value
    return points


def _of_evaluations(blobs: Blobs, run_id: str) -> dict[str, History]:
    points: dict[str, dict[float, float]] = {}
    content = _read(blobs, f"{identity.output_prefix(run_id)}{FILE}")
    for evaluated in read_history(content):
        step = evaluated.save if evaluated.step is None else evaluated.step
        for name, value in flat_metrics(evaluated.metrics).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, {})[step] = float(value)
    return _sorted(points)


def _sorted(points: Mapping[str, Mapping[float, float]]) -> dict[str, History]:
    return {name: tuple(sorted(values.items())) for name, values in points.items()}


def _read(blobs: Blobs, key: str) -> bytes:
    try:
        with blobs.open(key) as blob:
            return b"".join(blob.chunks)
    except NotFoundError:
        return b""
