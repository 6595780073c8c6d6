"""A stored environment: which manifest new runs use, and what is in it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from runctl.model.errors import DamagedCheckpointError
from runctl.model.manifest_rules import digest

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class StoredEnvironment:
    """The environment that new runs with its fingerprint use.

    `manifest` is the SHA-256 of the manifest's stored form. The other fields are for people:
    the declaration that it was built from, the size of its files in bytes, the Python version and
    processor architecture, its packages as (name, version), and when it was stored (ISO 8601).
    """

    manifest: str
    source: str = ""
    size_bytes: int = 0
    python: str = ""
    platform: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    stored_at: str = ""

    def as_json(self) -> bytes:
        """Return the stored form."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "StoredEnvironment":
        """Read the stored form; what a newer version added is ignored.

        Raises DamagedCheckpointError when it names no manifest.
        """
        try:
            document = json.loads(text)
            return cls(
                manifest=digest(document["manifest"]),
                source=str(document.get("source", "")),
                size_bytes=int(document.get("size_bytes", 0)),
                python=str(document.get("python", "")),
                platform=str(document.get("platform", "")),
                packages=_packages(document.get("packages", ())),
                stored_at=str(document.get("stored_at", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
            raise DamagedCheckpointError(f"a stored environment cannot be read: {exc}") from exc


def _packages(listed: Any) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(version)) for name, version in listed)
