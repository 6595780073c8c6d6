"""The removal of a run's older checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.model.subject import pinned_keys
from runctl.policy.garbage import StoredPart, find_garbage
from runctl.policy.retention import StoredSave, choose_kept

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.model.checkpoint import Manifest
    from runctl.model.run import Run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The manifests to keep and to remove, and the parts to remove with them."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    parts: tuple[StoredPart, ...]

    @property
    def freed_bytes(self) -> int:
        """The bytes that are stored no longer."""
        return sum(part.size_bytes for part in self.parts)


def plan_pruning(store: CheckpointStore, run: Run, *, keep: int, now: datetime) -> Plan:
    """Plan to keep the newest checkpoint, the proven one and the newest others, `keep` in total.

    No attempt may be alive. A suspect is kept only if there are not enough others. Raises
    CheckpointError if a checkpoint to keep cannot be read, since its parts are then unknown.
    """
    # Parts first, so that the parts of a later manifest are not mistaken for garbage.
    stored = list(store.parts())
    keys = store.manifest_keys()
    order = sorted(keys, key=lambda key: key != run.newest)
    protected = {run.proven} if keep > 1 and run.proven is not None else set()
    saves = [StoredSave(key, None) for key in order]
    chosen = choose_kept(saves, keep=keep, protected=protected, suspects=run.suspects)
    # Evaluations of the run need those that they have pinned.
    kept = tuple(key for key in order if key in {*chosen, *pinned_keys(run.pins)})
    removed = tuple(key for key in order if key not in kept)
    try:
        needed = _digests(store.get_manifest(key) for key in kept)
    except DamagedCheckpointError as exc:
        raise CheckpointError(
            f"a checkpoint to keep is damaged, so nothing is removed: {exc}"
        ) from exc
    freed = _digests(_readable(store, removed)) - needed
    going = {part.sha256: part for part in stored if part.sha256 in freed}
    for part in find_garbage(stored, needed | freed, has_live_attempt=False, now=now):
        going[part.sha256] = part
    return Plan(kept=kept, removed=removed, parts=tuple(going.values()))


def carry_out(store: CheckpointStore, plan: Plan) -> None:
    """Remove manifests before parts: an interruption leaves only parts without a manifest."""
    for key in plan.removed:
        store.delete_manifest(key)
    store.delete_parts(part.sha256 for part in plan.parts)


def _readable(store: CheckpointStore, keys: Iterable[str]) -> Iterable[Manifest]:
    for key in keys:
        try:
            yield store.get_manifest(key)
        except DamagedCheckpointError:
            continue  # parts that only it names become garbage with time


def _digests(manifests: Iterable[Manifest]) -> set[str]:
    return set().union(*(manifest.digests for manifest in manifests))
