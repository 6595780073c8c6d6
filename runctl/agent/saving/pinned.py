"""Pinned snapshots: their files stay readable, whatever the trainer does to the folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runctl.checkpoint.pinning import pin
from runctl.checkpoint.settling import ChangedError, Snapshot


@dataclass(frozen=True)
class Pinned:
    """A snapshot whose files are pinned at `place`.

    `reported_step` is the step that the trainer's helper had last reported when it was pinned.
    """

    snapshot: Snapshot
    place: Path
    reported_step: int | None


def pin_snapshot(
    snapshot: Snapshot, folder: Path, place: Path, held: Sequence[Path] = ()
) -> Snapshot:
    """Pin a snapshot's files at `place`; return it with their contents and final states."""
    contents: dict[tuple[int, int], bytes] = {}
    pinned = pin(
        folder,
        snapshot.view,
        place,
        recently_modified=snapshot.recently_modified,
        held=held,
        contents=contents,
    )
    expects_changed = any(path in snapshot.view for path in snapshot.changed)
    if expects_changed and not pinned.keys() & set(snapshot.changed):
        raise ChangedError(f"{snapshot.changed[0]} was removed while it was scanned")
    return replace(snapshot, view=pinned, contents=contents)
