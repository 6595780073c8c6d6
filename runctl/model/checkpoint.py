"""A checkpoint's manifest: everything that is needed to put the folder back as it was."""

import json
from dataclasses import dataclass, field
from typing import Any

from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

MANIFEST_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a file, named by the SHA-256 of its bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, folder or symbolic link below the checkpoint folder.

    `kind` is file, dir, link (symbolic, to `target`) or hard (another name of the file `target`).
    `mode` has the permission bits, `mtime_ns` the modification time in nanoseconds.
    """

    path: str
    kind: str
    mode: int
    mtime_ns: int
    size_bytes: int = 0
    target: str = ""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One whole checkpoint of a run."""

    run_id: str
    step: int
    attempt: int
    taken_at: str
    entries: tuple[Entry, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = MANIFEST_VERSION

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together, hard links counted once."""
        return sum(entry.size_bytes for entry in self.entries if entry.kind == "file")

    @property
    def digests(self) -> set[str]:
        """The names of all parts that the checkpoint needs."""
        return {part.sha256 for entry in self.entries for part in entry.parts}

    def as_json(self) -> bytes:
        """Return the stored form."""
        # Not asdict(), which copies each of thousands of values at several times the cost.
        entries = [
            {**vars(entry), "parts": [vars(part) for part in entry.parts]} for entry in self.entries
        ]
        document = {**vars(self), "entries": entries}
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Manifest":
        """Read the stored form; raises DamagedCheckpointError when it is not one we know.

        NewerCheckpointError, which is one of them, when a newer runctl would know it.
        """
        try:
            document = json.loads(text)
            if document["version"] > MANIFEST_VERSION:
                raise NewerCheckpointError(
                    f"the manifest has version {document['version']}; this runctl reads up to "
                    f"{MANIFEST_VERSION}, so upgrade it"
                )
            entries = tuple(
                Entry(**{**entry, "parts": tuple(Part(**part) for part in entry["parts"])})
                for entry in document.pop("entries")
            )
            return cls(**document, entries=entries)
        except (KeyError, TypeError, ValueError) as exc:
            raise DamagedCheckpointError(f"the manifest cannot be read: {exc}") from exc
