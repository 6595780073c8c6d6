"""The verification of checkpoints: every part is read and its checksum compared."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from runctl.aws.fast_s3.http1 import drop
from runctl.model.errors import DamagedCheckpointError

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.cli.display.output import Output
    from runctl.model.checkpoint import Manifest
    from runctl.model.checkpoint_entry import Part

_VERIFY_THREADS = 4


def find_damage(
    store: CheckpointStore, manifests: Mapping[str, Manifest], *, output: Output
) -> dict[str, str]:
    """Return the damage of each damaged checkpoint, by its key.

    A part that several checkpoints share is read once; few parts are in memory at a time.
    """
    # By name and size, because a manifest may state a wrong size.
    parts = {part for manifest in manifests.values() for part in manifest.parts.values()}
    total = sum(part.size_bytes for part in parts)
    wrong: dict[Part, str] = {}
    with (
        output.progress("verifying", total=total) as advance,
        ThreadPoolExecutor(_VERIFY_THREADS) as pool,
    ):

        def check(part: Part) -> None:
            try:
                store.get_part(part, drop)
            except DamagedCheckpointError as exc:
                wrong[part] = str(exc)
            advance(part.size_bytes)

        for _ in pool.map(check, parts):
            pass
    return {
        key: damage
        for key, manifest in manifests.items()
        if (damage := _damage_of(manifest, wrong)) is not None
    }


def _damage_of(manifest: Manifest, wrong: Mapping[Part, str]) -> str | None:
    for entry in manifest.entries:
        for part in entry.parts:
            if part in wrong:
                return f"{entry.path}: {wrong[part]}"
    return None
