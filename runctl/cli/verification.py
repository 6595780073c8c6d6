"""Reading every part of every checkpoint, to see that it is what its name says."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from runctl.aws.wire import drop
from runctl.model.errors import DamagedCheckpointError

if TYPE_CHECKING:
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.cli.output import Output
    from runctl.model.checkpoint import Manifest, Part

_READERS = 4


def find_damage(
    store: CheckpointStore, manifests: Mapping[str, Manifest], *, output: Output
) -> dict[str, str]:
    """Return what is wrong with each checkpoint that is not whole, by its key.

    A part that several checkpoints share is read once; a few parts are in memory at a time.
    """
    parts: dict[str, Part] = {}
    for manifest in manifests.values():
        parts.update(manifest.parts)
    total = sum(part.size_bytes for part in parts.values())
    wrong: dict[str, str] = {}
    with (
        output.progress("verifying", total=total) as advance,
        ThreadPoolExecutor(_READERS) as pool,
    ):

        def check(part: Part) -> None:
            try:
                store.get_part(part, drop)
            except DamagedCheckpointError as exc:
                wrong[part.sha256] = str(exc)
            advance(part.size_bytes)

        for _ in pool.map(check, parts.values()):
            pass
    return {
        key: told
        for key, manifest in manifests.items()
        if (told := _damage_of(manifest, wrong)) is not None
    }


def _damage_of(manifest: Manifest, wrong: Mapping[str, str]) -> str | None:
    for entry in manifest.entries:
        for part in entry.parts:
            if part.sha256 in wrong:
                return f"{entry.path}: {wrong[part.sha256]}"
    return None
