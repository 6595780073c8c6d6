"""A checkpoint's manifest: everything that is needed to put the folder back as it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

MANIFEST_VERSION = 2


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
    """One whole checkpoint of a run.

    `step` is None when its files do not say which step they hold. `save` counts the run's commits;
    it is 0 in a manifest of version 1, which had none.
    """

    run_id: str
    step: int | None
    attempt: int
    taken_at: str
    entries: tuple[Entry, ...]
    save: int = 0
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
        """Read the stored form of this version or an older one; unknown fields are ignored.

        Raises DamagedCheckpointError when it cannot be read; NewerCheckpointError, which is one of
        them, when a newer runctl can.
        """
        try:
            document = json.loads(text)
            if document["version"] > MANIFEST_VERSION:
                raise NewerCheckpointError(
                    f"the manifest has version {document['version']}; this runctl reads up to "
                    f"{MANIFEST_VERSION}, so upgrade it"
                )
            entries = tuple(
                Entry(
                    **{
                        **_known(Entry, entry),
                        "parts": tuple(Part(**_known(Part, part)) for part in entry["parts"]),
                    }
                )
                for entry in document["entries"]
            )
            return cls(**{**_known(cls, document), "entries": entries})
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise DamagedCheckpointError(f"the manifest cannot be read: {exc}") from exc


def name_of(step: int | None, save: int | None) -> str:
    """Name a checkpoint for people: by its step, or by the number of its save if that is all."""
    return f"save {save or 0}" if step is None else f"step {step}"


_FIELDS: Mapping[type, frozenset[str]] = {
    one: frozenset(field.name for field in fields(one)) for one in (Part, Entry, Manifest)
}


def _known(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that this version knows; a newer one may have added others."""
    known = _FIELDS[kind]
    return {name: value for name, value in document.items() if name in known}
