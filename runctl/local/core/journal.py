"""A journal of what happened to instances, and of the calls that the gateway answered."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import datetime, timezone
from typing import Any


class Journal:
    """An append-only list of entries with a sequence number, wall time and monotonic time."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, **fields: Any) -> dict[str, Any]:
        """Append an entry."""
        with self._lock:
            entry = {
                "seq": next(self._numbers),
                "at": datetime.now(timezone.utc).isoformat(),
                "monotonic": time.monotonic(),
                **fields,
            }
            self._entries.append(entry)
        return entry

    def since(self, seq: int = 0) -> list[dict[str, Any]]:
        """List the entries after a sequence number."""
        with self._lock:
            return [entry for entry in self._entries if entry["seq"] > seq]
