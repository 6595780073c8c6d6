"""What removing a run's older checkpoints takes away, and doing it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.policy.garbage import StoredPart, find_garbage

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.model.checkpoint import Manifest


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


def plan_pruning(store: CheckpointStore, *, newest: str | None, keep: int, now: datetime) -> Plan:
    """Keep the newest checkpoint and the highest others, `keep` in all; no attempt may live.

    Raises CheckpointError when one that stays cannot be read: nobody knows then what it needs.
    """
    # Parts first: whatever a manifest names that comes later is not mistaken for garbage.
    stored = list(store.parts())
    keys = store.manifest_keys()
    order = [key for key in keys if key == newest] + [key for key in keys if key != newest]
    kept, removed = tuple(order[:keep]), tuple(order[keep:])
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
