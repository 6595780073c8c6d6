"""What agents need of the ledger, which the control functions need too; a port, not a value."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from runctl.model.run import Attempt, Run
from runctl.model.saving import Saving


class AgentLedger(Protocol):
    """The agent's side of the ledger; every read is consistent, every write may be repeated.

    Throttling is retried inside; TransientError when that did not help.
    """

    def find_run(self, run_id: str) -> Run | None:
        """Return the run, or None."""
        ...

    def find_attempt(self, run_id: str, number: int) -> Attempt | None:
        """Return the attempt, or None."""
        ...

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts in the order of their numbers."""
        ...

    def note_notice(self, run_id: str, number: int, *, now: datetime) -> bool:
        """Record that the interruption is known; True for whoever was first."""
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
    ) -> None:
        """Move the newest pointer to a manifest that is already stored.

        `progressed` says whether the attempt has made progress with it, or before. Refused with
        FencedError unless `number` has the fence. The pointer follows the fence to a lower step
        too: an attempt that had to fall back, or did not resume, starts below the one before.
        """
        ...

    def mark_suspect(self, run_id: str, number: int, key: str) -> None:
        """Mark the checkpoint of that manifest as one that a trainer died from.

        Like the two below, refused with FencedError unless `number` has the fence.
        """
        ...

    def clear_suspects(self, run_id: str, number: int, keys: Iterable[str]) -> None:
        """Take such marks back."""
        ...

    def mark_proven(self, run_id: str, number: int, key: str) -> None:
        """Mark a checkpoint as the last one that a trainer continued from, and suspect no more."""
        ...

    def record_progress(
        self,
        run_id: str,
        number: int,
        *,
        phase: str,
        now: datetime,
        resume_step: int | None = None,
        resume_save: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        timeline: Mapping[str, datetime] | None = None,
        saving: Saving | None = None,
        warning: str = "",
    ) -> None:
        """Store the agent's heartbeat: its phase (boot, environment, restore, train, drain, …).

        Refused with FencedError once a higher attempt has the fence; an attempt that waits for its
        token has none yet and may tell of its preparations. `timeline` is merged, `metrics` and
        `saving` replace the ones before.
        """
        ...
