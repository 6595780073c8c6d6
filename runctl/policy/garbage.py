"""Which stored parts nobody needs: no manifest names them, and nobody can be about to."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

# A save uploads its parts before its manifest, and may take hours over a slow line.
YOUNG = timedelta(hours=24)


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

    `needed` has the digests that any manifest of the run names, read after `parts` were listed: a
    manifest that was committed in between is in it then. While an attempt lives its uploader counts
    on parts that it saw, manifest or not, so nothing may go.
    """
    if has_live_attempt:
        return []
    return [part for part in parts if part.sha256 not in needed and now - part.stored_at >= YOUNG]
