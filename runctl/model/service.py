"""The server of a service as its agent sees it: where it listens, and whether it is ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server on its instance.

    `is_ready` says whether it may get requests, since `since`; `restarts` counts how often it was
    started again in the same attempt.
    """

    port: int
    is_ready: bool
    since: datetime
    restarts: int = 0

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "port": self.port,
            "is_ready": self.is_ready,
            "since": self.since.isoformat(),
            "restarts": self.restarts,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Service | None":
        """Read the JSON form; None if another version wrote something else."""
        port, is_ready = document.get("port"), document.get("is_ready")
        restarts = document.get("restarts", 0)
        try:
            since = datetime.fromisoformat(str(document.get("since")))
        except ValueError:
            return None
        if type(port) is not int or type(is_ready) is not bool or type(restarts) is not int:
            return None
        if since.tzinfo is None:
            return None
        return cls(port=port, is_ready=is_ready, since=since, restarts=restarts)
