"""The checkpoint pointers of runs in the ledger, moved only by the attempt that has the fence."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from runctl.aws.attributes import text_of
from runctl.aws.run_ledger import RunLedger
from runctl.model import identity
from runctl.model.errors import FencedError, NotFoundError
from runctl.model.result_metrics import stored_text
from runctl.model.run import best_of
from runctl.model.subject import pin_of, pinned_keys, pins_by


class CheckpointLedger(RunLedger):
    """The newest, proven and suspect checkpoints of a run."""

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
        """Move the newest pointer to a manifest that is already stored, if `number` has the fence.

        The best step is read first: only the holder of the fence moves it, so it cannot have
        changed when the write is accepted. Returns the keys of the checkpoints that are pinned.
        """
        values: dict[str, Any] = {
            "save": save,
            "newest": manifest,
            "newest_bytes": size_bytes,
            "committed_at": text_of(now),
        }
        if step is not None:
            values |= {"step": step, "best_step": best_of(self._run(run_id).best_step, step)}
        if progressed:
            values["progressed_attempt"] = number
        moves = ", ".join(f"#{name} = :{name}" for name in values)
        item = self._table.update(
            identity.run_key(run_id),
            update=f"SET {moves}" if step is not None else f"SET {moves} REMOVE #step",
            condition="#fence = :number",
            values={**values, "number": number},
        )
        if item is None:
            raise FencedError(
                f"attempt {self._run(run_id).fence} of {run_id} has the fence, not {number}"
            )
        return pinned_keys(item.get("pins", ()))

    def mark_suspect(self, run_id: str, number: int, key: str) -> None:
        """Mark a checkpoint that a trainer died from, if `number` has the fence."""
        self._mark(run_id, number, "ADD #suspects :keys", {"keys": {key}})

    def clear_suspects(self, run_id: str, number: int, keys: Iterable[str]) -> None:
        """Remove such marks, if `number` has the fence."""
        self._mark(run_id, number, "DELETE #suspects :keys", {"keys": set(keys)})

    def mark_proven(self, run_id: str, number: int, key: str) -> None:
        """Mark the checkpoint that a trainer continued from, if `number` has the fence."""
        update = "SET #proven = :key DELETE #suspects :keys"
        self._mark(run_id, number, update, {"key": key, "keys": {key}})

    def pin_checkpoint(self, run_id: str, key: str, *, by: str) -> None:
        """Keep a checkpoint of a run for another run, until that one removes its pins."""
        item = self._table.update(
            identity.run_key(run_id),
            update="ADD #pins :pins",
            condition="attribute_exists(#pk)",
            values={"pins": {pin_of(key, by=by)}},
        )
        if item is None:
            raise NotFoundError(f"there is no run {run_id}")

    def remove_pins(self, run_id: str, *, by: str, keys: Collection[str] | None = None) -> None:
        """Remove the pins of another run, all or those of some checkpoints."""
        run = self.find_run(run_id)
        found = frozenset() if run is None else pins_by(run.pins, by)
        if keys is not None:
            found &= {pin_of(key, by=by) for key in keys}
        if found:
            self._table.update(
                identity.run_key(run_id),
                update="DELETE #pins :pins",
                condition="attribute_exists(#pk)",
                values={"pins": set(found)},
            )

    def record_evaluated(
        self, run_id: str, number: int, *, save: int, metrics: Mapping[str, Any]
    ) -> None:
        """Record what an evaluation of every checkpoint has reached, if `number` has the fence.

        Following the other run is progress, even while that one commits nothing.
        """
        update = "SET #evaluated_save = :save, #progressed_attempt = :number"
        values: dict[str, Any] = {"save": save}
        if metrics:
            update += ", #metrics = :metrics"
            values["metrics"] = stored_text(metrics)
        self._mark(run_id, number, update, values)

    def record_mlflow_run(self, run_id: str, number: int, mlflow_run: str) -> None:
        """Store the run of MLflow that the program has named, if `number` has the fence."""
        self._mark(run_id, number, "SET #mlflow_run = :named", {"named": mlflow_run})

    def record_metrics(self, run_id: str, number: int, metrics: Mapping[str, Any]) -> None:
        """Store the metrics of the run's result, if `number` has the fence."""
        self._mark(run_id, number, "SET #metrics = :metrics", {"metrics": stored_text(metrics)})

    def _mark(self, run_id: str, number: int, update: str, values: Mapping[str, Any]) -> None:
        item = self._table.update(
            identity.run_key(run_id),
            update=update,
            condition="#fence = :number",
            values={**values, "number": number},
        )
        if item is None:
            raise FencedError(
                f"attempt {self._run(run_id).fence} of {run_id} has the fence, not {number}"
            )
