"""The part of the ledger that agents use, which the control functions use too: a port."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from runctl.model.image import Image
from runctl.model.node import NodeId, NodeProgress
from runctl.model.run import Attempt, Run


class AgentLedger(Protocol):
    """The agent's side of the ledger; every read is consistent, every write may be repeated.

    Throttling is retried inside; TransientError when that did not help.
    """

    def find_run(self, run_id: str) -> Run | None:
        """Return the run, or None."""
        ...

    def find_attempt(self, run_id: str, number: int) -> Attempt | None:
        """Return the attempt with its nodes, or None."""
        ...

    def find_token(self, run_id: str, number: int) -> str | None:
        """Return the newest task token of the attempt, or None while it has none.

        Agents may read that of their own attempt only.
        """
        ...

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts in the order of their numbers."""
        ...

    def record_image(self, run_id: str, image: Image) -> Image:
        """Store the run's image unless it has one; return what the ledger holds.

        The first record wins: every attempt runs the content that this returns.
        """
        ...

    def record_notice(self, node: NodeId, *, now: datetime) -> bool:
        """Record that the interruption of a node is known; return True for the first record."""
        ...

    def commit_checkpoint(
        self,
        run_id: str,
        number: int,
        *,
        step: int | None,
        save: int,
        manifest: str,
        progressed: bool,
        now: datetime,
        size_bytes: int = 0,
    ) -> frozenset[str]:
        """Move the newest pointer to a manifest that is already stored.

        `size_bytes` is the size of its files, 0 if that is not known. `progressed` says whether the
        attempt has made progress with it, or before. Refused with FencedError unless `number` has
        the fence. The pointer follows the fence to a lower step, too: an attempt that had to fall
        back, or did not resume, starts below the previous one. Returns the keys of the checkpoints
        that other runs have pinned, which retention leaves alone.
        """
        ...

    def mark_suspect(self, run_id: str, number: int, key: str) -> None:
        """Mark the checkpoint of the manifest `key` as suspect: a trainer died from it.

        Like the two below, refused with FencedError unless `number` has the fence.
        """
        ...

    def clear_suspects(self, run_id: str, number: int, keys: Iterable[str]) -> None:
        """Remove such marks."""
        ...

    def mark_proven(self, run_id: str, number: int, key: str) -> None:
        """Mark a checkpoint as the last that a trainer continued from, and as suspect no more."""
        ...

    def pin_checkpoint(self, run_id: str, key: str, *, by: str) -> None:
        """Keep a checkpoint of a run for the run `by`; NotFoundError for an unknown run."""
        ...

    def remove_pins(self, run_id: str, *, by: str, keys: Collection[str] | None = None) -> None:
        """Remove the pins of the run `by`, all or those of some checkpoints."""
        ...

    def record_evaluated(
        self, run_id: str, number: int, *, save: int, metrics: Mapping[str, Any]
    ) -> None:
        """Record the last save that an evaluation of every checkpoint has evaluated.

        It is progress, and `metrics` become those of the result. Refused with FencedError without
        the fence.
        """
        ...

    def record_mlflow_run(self, run_id: str, number: int, mlflow_run: str) -> None:
        """Store the run of MLflow that the program has named; FencedError without the fence."""
        ...

    def record_metrics(self, run_id: str, number: int, metrics: Mapping[str, Any]) -> None:
        """Store the metrics of the run's result; refused with FencedError without the fence."""
        ...

    def record_progress(self, node: NodeId, progress: NodeProgress, *, now: datetime) -> None:
        """Store the heartbeat of a node's agent.

        Refused with FencedError once a higher attempt has the fence; an attempt that waits for its
        token has none yet, and may report its preparations. The timeline is merged with the stored
        one; the other values replace those stored, except where they are not known.
        """
        ...
