"""The entries of a checkpoint: files, folders and links, and the parts that files consist of."""

from dataclasses import dataclass


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
