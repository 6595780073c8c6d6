"""How much of a run's inputs an instance has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Staging:
    """The bytes of the inputs that are in place and verified, and those of all inputs."""

    done_bytes: int
    total_bytes: int

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"done_bytes": self.done_bytes, "total_bytes": self.total_bytes}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Staging | None":
        """Read the JSON form; None if another version wrote something else."""
        done, total = document.get("done_bytes"), document.get("total_bytes")
        if not isinstance(done, int) or not isinstance(total, int):
            return None
        return cls(done_bytes=done, total_bytes=total)
