"""What removing a run's older checkpoints takes away, and doing it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.policy.garbage import StoredPart, find_garbage
from runctl.policy.retention import StoredSave, choose_kept

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.model.checkpoint import Manifest
    from runctl.model.run import Run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The manifests that stay and go, and the parts that go with them."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    parts: tuple[StoredPart, ...]

    @property
    def freed_bytes(self) -> int:
        """How much less is stored afterwards."""
        return sum(part.size_bytes for part in self.parts)


def plan_pruning(store: CheckpointStore, run: Run, *, keep: int, now: datetime) -> Plan:
    """Keep the newest checkpoint, the proven one and the newest others, `keep` in all.

    No attempt may live. A suspect stays only where there are not enough others. Raises
    CheckpointError when one that stays cannot be read: nobody knows then what it needs.
    """
    # Parts first: whatever a manifest names that comes later is not mistaken for garbage.
    stored = list(store.parts())
    keys = store.manifest_keys()
    order = sorted(keys, key=lambda key: key != run.newest)
    protected = {run.proven} if keep > 1 and run.proven is not None else set()
    saves = [StoredSave(key, None) for key in order]
    kept = tuple(choose_kept(saves, keep=keep, protected=protected, suspects=run.suspects))
    removed = tuple(key for key in order if key not in kept)
    try:
        needed = _digests(store.get_manifest(key) for key in kept)
    except DamagedCheckpointError as exc:
        raise CheckpointError(
            f"a checkpoint that stays is damaged, so nothing is removed: {exc}"
        ) from exc
    freed = _digests(_readable(store, removed)) - needed
    going = {part.sha256: part for part in stored if part.sha256 in freed}
    for part in find_garbage(stored, needed | freed, has_live_attempt=False, now=now):
        going[part.sha256] = part
    return Plan(kept=kept, removed=removed, parts=tuple(going.values()))


def carry_out(store: CheckpointStore, plan: Plan) -> None:
    """Remove manifests before parts: killed in between, parts without a manifest are left."""
    for key in plan.removed:
        store.delete_manifest(key)
    store.delete_parts(part.sha256 for part in plan.parts)


def _readable(store: CheckpointStore, keys: Iterable[str]) -> Iterable[Manifest]:
    for key in keys:
        try:
            yield store.get_manifest(key)
        except DamagedCheckpointError:
            continue  # what only it names is garbage once it is old enough


def _digests(manifests: Iterable[Manifest]) -> set[str]:
    return set().union(*(manifest.digests for manifest in manifests))
