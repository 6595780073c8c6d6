"""A checkpoint's manifest: everything that is needed to put the folder back as it was."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from runctl.model import manifest_rules as rules
from runctl.model.checkpoint_entry import Entry, Part
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError

MANIFEST_VERSION = 2
# A step is a number in DynamoDB and in the names of keys.
MAX_STEP = 10**15


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

        Raises DamagedCheckpointError when it cannot be read or breaks a rule of
        `manifest_rules`; NewerCheckpointError, which is one of them, when a newer runctl can.
        """
        if len(text) > rules.MAX_MANIFEST_BYTES:
            raise DamagedCheckpointError(
                f"the manifest has {len(text):,} bytes, more than {rules.MAX_MANIFEST_BYTES:,}"
            )
        try:
            document = json.loads(text)
            version = rules.whole(document["version"], "version")
            if version > MANIFEST_VERSION:
                raise NewerCheckpointError(
                    f"the manifest has version {version}; this runctl reads up to "
                    f"{MANIFEST_VERSION}, so upgrade it"
                )
            return _read_manifest(document, version)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            raise DamagedCheckpointError(f"the manifest cannot be read: {exc}") from exc
        except RecursionError:
            raise DamagedCheckpointError("the manifest is nested too deeply") from None


def is_step(value: object) -> TypeGuard[int]:
    """Whether something that was read can be the number of a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STEP


def name_of(step: int | None, save: int | None) -> str:
    """Name a checkpoint for people: by its step, or by the number of its save if that is all."""
    return f"save {save or 0}" if step is None else f"step {step}"


def _read_manifest(document: Mapping[str, Any], version: int) -> Manifest:
    """Read what this version knows of a manifest; a newer one may have added fields.

    Raises ValueError, or another error that a document of another form causes.
    """
    step = document.get("step")
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        raise TypeError("metadata is not an object")
    return Manifest(
        run_id=rules.text(document["run_id"], "run_id"),
        step=None if step is None else rules.whole(step, "step", most=MAX_STEP),
        attempt=rules.whole(document["attempt"], "attempt"),
        taken_at=rules.text(document["taken_at"], "taken_at"),
        entries=_read_entries(document),
        save=rules.whole(document.get("save", 0), "save"),
        metadata=metadata,
        version=version,
    )


def _read_entries(document: Mapping[str, Any]) -> tuple[Entry, ...]:
    listed, stored = document["entries"], document.get("parts", [])
    if not isinstance(listed, list) or not isinstance(stored, list):
        raise TypeError("entries or parts are not lists")
    if len(listed) > rules.MAX_ENTRIES:
        raise ValueError(f"it has {len(listed):,} entries, more than {rules.MAX_ENTRIES:,}")
    references = sum(len(entry["parts"]) for entry in listed)
    if references > rules.MAX_PART_REFERENCES:
        raise ValueError(
            f"its files have {references:,} parts, more than {rules.MAX_PART_REFERENCES:,}"
        )
    parts = [_read_part(part) for part in stored]
    entries = tuple(_read_entry(entry, parts) for entry in listed)
    rules.check_entries(entries)
    return entries


def _read_part(document: Mapping[str, Any]) -> Part:
    size = rules.whole(document["size_bytes"], "size_bytes", most=rules.MAX_PART_BYTES)
    return Part(sha256=rules.digest(document["sha256"]), size_bytes=size)


def _read_entry(document: Mapping[str, Any], parts: Sequence[Part]) -> Entry:
    # There may be many thousands of them, so a check costs nothing where a comparison is enough.
    find, number = document.get, rules.whole
    offset, size, time_ns = find("offset"), find("size_bytes", 0), document["mtime_ns"]
    places = document["parts"]
    return Entry(
        path=document["path"],
        kind=document["kind"],
        # Neither setuid nor setgid nor sticky: no trainer's file needs them to be read.
        mode=number(document["mode"], "mode") & rules.MODE_BITS,
        mtime_ns=number(time_ns, "mtime_ns", least=-rules.MAX_NUMBER),
        size_bytes=number(size, "size_bytes") if size else 0,
        target=find("target", ""),
        parts=tuple([_part(place, parts) for place in places]) if places else (),
        offset=None if offset is None else number(offset, "offset"),
        sha256="" if offset is None else rules.digest(document["sha256"]),
    )


def _part(place: Any, parts: Sequence[Part]) -> Part:
    """Return a part by its place in the list; version 1 has the parts themselves in the entries."""
    return _read_part(place) if isinstance(place, dict) else parts[rules.whole(place, "parts")]


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
