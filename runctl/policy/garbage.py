"""Garbage: stored parts that no manifest names, and that no save can be about to name."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

# A save uploads its parts before its manifest, and may take hours over a slow line.
MAX_SAVE_TIME = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part as the store lists it."""

    sha256: str
    size_bytes: int
    stored_at: datetime


def find_garbage(
    parts: Iterable[StoredPart], needed: Set[str], *, has_live_attempt: bool, now: datetime
) -> list[StoredPart]:
    """Return the parts that may be removed.

    `needed` has the digests that any manifest of the run names, read after `parts` were listed: it
    includes manifests that were committed in between. While an attempt is live, its uploader relies
    on parts that it saw, with or without a manifest, so nothing may be removed.
    """
    if has_live_attempt:
        return []
    return [
        part
        for part in parts
        if part.sha256 not in needed and now - part.stored_at >= MAX_SAVE_TIME
    ]
