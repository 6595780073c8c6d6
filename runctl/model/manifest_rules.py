"""Rules for stored manifests, which are checked before they are used.

Anyone who can write to a run's prefix in the bucket can put any text there, and a manifest decides
which files are written on an instance, or on the computer of a person who pulls a checkpoint.
"""

import re
from collections.abc import Iterable
from typing import Any

from runctl.model.checkpoint_entry import Entry

# The agent watches 200,000 names; a manifest of as many with long names has about half of this.
MAX_MANIFEST_BYTES = 128 * 1024 * 1024
MAX_ENTRIES = 1_000_000
# References of all files to parts, which have 8 MiB each: 16 TiB.
MAX_PART_REFERENCES = 2_000_000
# A part may be held in memory while it is read.
MAX_PART_BYTES = 1024 * 1024 * 1024
# Each level of folders costs a descriptor while a checkpoint is restored.
MAX_DEPTH = 100
MAX_PATH_BYTES = 4095
MAX_NAME_BYTES = 255
# The largest number of 64 bits, for sizes, times and DynamoDB's numbers.
MAX_NUMBER = 2**63 - 1
MODE_BITS = 0o777

KINDS = frozenset({"file", "dir", "link", "hard"})
DIGEST = re.compile(r"[0-9a-f]{64}")


def digest(value: Any) -> str:
    """Return a SHA-256 as 64 lowercase hexadecimal digits; ValueError for anything else."""
    if not isinstance(value, str) or DIGEST.fullmatch(value) is None:
        raise ValueError(f"sha256: {_shown(value)} is not 64 lowercase hexadecimal digits")
    return value


def whole(value: Any, name: str, *, least: int = 0, most: int = MAX_NUMBER) -> int:
    """Return a whole number in its range; ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: {_shown(value)} is not a whole number from {least} to {most}")
    return value


def text(value: Any, name: str) -> str:
    """Return a text; TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: {_shown(value)} is not a string")
    return value


def check_entries(entries: Iterable[Entry]) -> None:
    """Raise ValueError or TypeError unless the entries describe one tree below one folder."""
    kinds: dict[str, str] = {}
    sizes: dict[str, int] = {}
    targets: list[tuple[str, str]] = []
    for entry in entries:
        path = entry.path
        _check_path(path)
        if path in kinds:
            raise ValueError(f"{_shown(path)} occurs twice")
        kinds[path] = entry.kind
        if entry.kind == "file":
            _check_content(entry, sizes)
            continue
        if entry.parts or entry.offset is not None:
            raise ValueError(f"{_shown(path)} is not a file, but has parts")
        if entry.kind == "link":
            _check_link(path, entry.target)
        elif entry.kind == "hard":
            targets.append((path, entry.target))
        elif entry.kind != "dir":
            raise ValueError(f"{_shown(path)} has the unknown kind {_shown(entry.kind)}")
    _check_folders(kinds)
    for path, target in targets:
        if kinds.get(target) != "file":
            raise ValueError(f"{_shown(path)} is a hard link to something other than a file")


def _check_path(path: Any) -> None:
    names = text(path, "path").split("/")
    if "" in names or "." in names or ".." in names or "\0" in path:
        raise ValueError(f"{_shown(path)} is not a plain path: it may lead outside of the folder")
    if len(names) > MAX_DEPTH:
        raise ValueError(f"{_shown(path)} has {len(names)} levels, more than {MAX_DEPTH}")
    _check_length(path, names)


def _check_length(path: str, names: Iterable[str]) -> None:
    if path.isascii():
        if len(path) > MAX_NAME_BYTES and (
            len(path) > MAX_PATH_BYTES or max(map(len, names)) > MAX_NAME_BYTES
        ):
            raise ValueError(f"{_shown(path)} is longer than a path can be")
        return
    # Bytes that are not UTF-8 are surrogates. Two texts must not stand for one name on the disk.
    stored = path.encode("utf-8", "surrogateescape")
    if stored.decode("utf-8", "surrogateescape") != path:
        raise ValueError(f"{_shown(path)} is another path's name in other characters")
    if len(stored) > MAX_PATH_BYTES or max(map(len, stored.split(b"/"))) > MAX_NAME_BYTES:
        raise ValueError(f"{_shown(path)} is longer than a path can be")


def _check_link(path: str, target: Any) -> None:
    # It may point anywhere, as the trainer's did: nobody follows it here.
    if not isinstance(target, str) or not target or "\0" in target:
        raise ValueError(f"{_shown(path)} is a link to {_shown(target)}, which is not a path")
    if len(target.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise ValueError(f"{_shown(path)} is a link to a path that is too long")


def _check_content(entry: Entry, sizes: dict[str, int]) -> None:
    """Check that the size of a file matches its parts; `sizes` are those known, by digest."""
    for part in entry.parts:
        if sizes.setdefault(part.sha256, part.size_bytes) != part.size_bytes:
            raise ValueError(f"the part {part.sha256} has two sizes")
    if entry.offset is None:
        if sum(part.size_bytes for part in entry.parts) != entry.size_bytes:
            raise ValueError(f"{_shown(entry.path)} does not have the size of its parts together")
        return
    if len(entry.parts) != 1:
        raise ValueError(f"{_shown(entry.path)} has an offset, but {len(entry.parts)} parts")
    if not 0 <= entry.offset <= entry.parts[0].size_bytes - entry.size_bytes:
        raise ValueError(f"{_shown(entry.path)} lies outside of its part")
    if sizes.setdefault(entry.sha256, entry.size_bytes) != entry.size_bytes:
        raise ValueError(f"the content {entry.sha256} has two sizes")


def _check_folders(kinds: dict[str, str]) -> None:
    """Check that nothing lies below a file or a link."""
    known: set[str] = set()
    for path in kinds:
        folder = path.rpartition("/")[0]
        while folder and folder not in known:
            if kinds.get(folder, "dir") != "dir":
                raise ValueError(
                    f"{_shown(path)} lies below {_shown(folder)}, which is not a folder"
                )
            known.add(folder)
            folder = folder.rpartition("/")[0]


def _shown(value: Any) -> str:
    """Return a value for a message: printable and short."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_NUMBER:
        return "a number of more than 64 bits"  # Python refuses to print the longest
    is_plain = isinstance(value, str | int | float | None)
    shown = ascii(value) if is_plain else f"a {type(value).__name__}"
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
