"""A checkpoint's manifest: everything that is needed to put the folder back as it was."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

MANIFEST_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a file, or a bundle of small files, named by the SHA-256 of its bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, folder or symbolic link below the checkpoint folder.

    `kind` is file, dir, link (symbolic, to `target`) or hard (another name of the file `target`).
    `mode` has the permission bits, `mtime_ns` the modification time in nanoseconds.
    A file consists of its parts; or, where there is an `offset`, of the `size_bytes` that begin
    there in its only part, a bundle, and have the digest `sha256`.
    """

    path: str
    kind: str
    mode: int
    mtime_ns: int
    size_bytes: int = 0
    target: str = ""
    parts: tuple[Part, ...] = ()
    offset: int | None = None
    sha256: str = ""


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
    def parts(self) -> dict[str, Part]:
        """All parts that the checkpoint needs, each once, by their names."""
        return {part.sha256: part for entry in self.entries for part in entry.parts}

    @property
    def digests(self) -> set[str]:
        """The names of all parts that the checkpoint needs."""
        return set(self.parts)

    def as_json(self) -> bytes:
        """Return the stored form: each part once, and in the entries their places in that list."""
        places: dict[Part, int] = {}
        entries = [_entry_document(entry, places) for entry in self.entries]
        document = {**vars(self), "entries": entries, "parts": [vars(part) for part in places]}
        return json.dumps(document, separators=(",", ":")).encode()

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
            # Version 1 has the parts themselves in the entries.
            parts = tuple(Part(**_known(Part, part)) for part in document.pop("parts", ()))
            entries = tuple(_read_entry(entry, parts) for entry in document["entries"])
            return cls(**{**_known(cls, document), "entries": entries})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
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


def _entry_document(entry: Entry, places: dict[Part, int]) -> dict[str, Any]:
    """Return what differs from the defaults; there may be many thousands of entries."""
    document: dict[str, Any] = {
        "path": entry.path,
        "kind": entry.kind,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
        "parts": [places.setdefault(part, len(places)) for part in entry.parts],
    }
    if entry.size_bytes:
        document["size_bytes"] = entry.size_bytes
    if entry.target:
        document["target"] = entry.target
    if entry.offset is not None:
        document["offset"] = entry.offset
        document["sha256"] = entry.sha256
    return document


def _read_entry(document: Mapping[str, Any], parts: Sequence[Part]) -> Entry:
    held = tuple(
        parts[part] if isinstance(part, int) else Part(**_known(Part, part))
        for part in document["parts"]
    )
    entry = Entry(**{**_known(Entry, document), "parts": held})
    if any(isinstance(part, int) and part < 0 for part in document["parts"]):
        raise ValueError(f"{entry.path!r} has no such part")
    if entry.offset is not None:
        (bundle,) = held
        if not 0 <= entry.offset <= bundle.size_bytes - entry.size_bytes:
            raise ValueError(f"{entry.path!r} leaves its part")
    return entry
