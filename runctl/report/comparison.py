"""The comparison of runs: their results side by side, and the best value of each metric."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any

from runctl.model.result_metrics import flat_metrics, is_number
from runctl.model.run import Run
from runctl.report.metric_history import History
from runctl.report.run_document import RunDocument

# Words in names of metrics that say which values are better.
_HIGHER = frozenset(
    {
        "acc", "accuracy", "ap", "auc", "auroc", "bleu", "chrf", "correct", "dice", "f1", "iou",
        "kappa", "map", "mcc", "ndcg", "precision", "psnr", "r2", "recall", "reward", "rouge",
        "score", "ssim", "throughput",
    }
)  # fmt: skip
_LOWER = frozenset(
    {
        "bpc", "cer", "divergence", "entropy", "err", "error", "fid", "latency", "loss", "mae",
        "mape", "mse", "nll", "perplexity", "ppl", "rmse", "seconds", "ter", "wer",
    }
)  # fmt: skip
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+\d?")


class Direction(str, Enum):
    """Which values of a metric are better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs.

    `subject` names the checkpoint that it evaluates, `metrics` are those of its result by one name
    each, or else the last values that its trainer reported, and `histories` are their values over
    the steps.
    """

    run_id: str
    status: str
    subject: str
    step: int | None
    took: timedelta
    machine_time: Mapping[str, timedelta]
    interruptions: int
    metrics: Mapping[str, Any]
    histories: Mapping[str, History] = field(default_factory=dict)

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "subject": self.subject or None,
            "step": self.step,
            "took_seconds": round(self.took.total_seconds(), 3),
            "machine_seconds": {
                market: round(time.total_seconds(), 3) for market, time in self.machine_time.items()
            },
            "interruptions": self.interruptions,
            "metrics": dict(self.metrics),
            "histories": {name: list(history) for name, history in self.histories.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side; `best` has the runs with the best value of a metric."""

    runs: tuple[ComparedRun, ...]
    names: tuple[str, ...]
    directions: Mapping[str, Direction]
    best: Mapping[str, frozenset[str]]

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "runs": [run.as_document() for run in self.runs],
            "metrics": {
                name: {
                    "direction": self.directions[name].value if name in self.directions else None,
                    "best": sorted(self.best.get(name, ())),
                }
                for name in self.names
            },
        }


def compared_run(run: Run, document: RunDocument, histories: Mapping[str, History]) -> ComparedRun:
    """Return what is compared of a run."""
    last = document.last_attempt
    reported = {} if last is None else last.metrics
    metrics = flat_metrics(run.metrics) or dict(reported)
    step = metrics.pop("step", None)
    known = run.step if run.subject is None else run.subject.step
    return ComparedRun(
        run_id=run.run_id,
        status=document.status.value,
        subject=document.evaluates,
        step=int(step) if known is None and isinstance(step, int | float) else known,
        took=document.took,
        machine_time=document.cost.machine_time,
        interruptions=document.cost.interruptions,
        metrics=metrics,
        histories=histories,
    )


def compare_runs(
    runs: Sequence[ComparedRun],
    *,
    maximize: Collection[str] = (),
    minimize: Collection[str] = (),
) -> Comparison:
    """Compare runs; `maximize` and `minimize` name metrics whose direction is not the usual one."""
    names = tuple(dict.fromkeys(name for run in runs for name in run.metrics))
    directions = {
        name: direction
        for name in names
        if (direction := direction_of(name, maximize=maximize, minimize=minimize)) is not None
    }
    return Comparison(
        runs=tuple(runs),
        names=names,
        directions=directions,
        best={name: _best(runs, name, direction) for name, direction in directions.items()},
    )


def direction_of(
    name: str, *, maximize: Collection[str] = (), minimize: Collection[str] = ()
) -> Direction | None:
    """Return which values of a metric are better, None if neither a user nor its name says so.

    The last word that says so counts: a `loss_accuracy` is an accuracy.
    """
    if name in maximize:
        return Direction.MAXIMIZE
    if name in minimize:
        return Direction.MINIMIZE
    for word in reversed(_WORD.findall(_HUMP.sub("_", name).lower())):
        if word in _HIGHER:
            return Direction.MAXIMIZE
        if word in _LOWER:
            return Direction.MINIMIZE
    return None


def _best(runs: Sequence[ComparedRun], name: str, direction: Direction) -> frozenset[str]:
    """Return the runs with the best number; nothing is best where only one run has a number."""
    numbers = {run.run_id: run.metrics[name] for run in runs if is_number(run.metrics.get(name))}
    if len(numbers) < 2:
        return frozenset()
    best = (max if direction is Direction.MAXIMIZE else min)(numbers.values())
    return frozenset(run_id for run_id, number in numbers.items() if number == best)
