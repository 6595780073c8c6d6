# ruff: noqa: SLF001 - it hashes for ministack, with ministack's functions
"""Hashes of contents, computed once, and outside the thread that answers requests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ministack.services import s3

from runctl.local.s3.bodies import Body, BodyStore
from runctl.local.s3.current import Prepared, prepared_for

_CHUNK = 1024 * 1024


class StandIn(bytes):
    """What stands for a part while ministack completes its upload: its size, and its MD5."""

    part: Mapping[str, Any]

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> StandIn:
        """Make one for ministack's record of a part."""
        made = cls()
        made.part = part
        return made

    def __len__(self) -> int:
        return int(self.part["size"])


class BodyHasher:
    """ministack's hash functions, for contents on disk and for those hashed already."""

    def __init__(self, store: BodyStore) -> None:
        self._store, self._md5, self._checksums = store, s3.md5_hash, s3._resolve_object_checksums

    def install(self) -> None:
        """Let ministack's S3 use it, once."""
        s3.md5_hash, s3._resolve_object_checksums = self.md5_of, self.checksums_of
        # Only CompleteMultipartUpload needs this one: it hashes the parts again.
        s3.hashlib = SimpleNamespace(**{**vars(hashlib), "md5": _md5})

    def prepare(self, content: bytes, headers: Mapping[str, str]) -> Prepared:
        """Store and hash a content, in any thread; raise OSError if it cannot be stored."""
        return Prepared(
            content,
            dict(headers),
            body=self._store.keep(content),
            md5=self._md5(content),
            checksums=self._checksums(content, headers),
        )

    def md5_of(self, content: bytes | Body) -> str:
        """Return the MD5 of a content in hexadecimal."""
        if prepared := prepared_for(content):
            return prepared.md5
        if not isinstance(content, Body):
            return str(self._md5(content))
        hashed = hashlib.md5(usedforsecurity=False)
        for chunk in content.chunks(_CHUNK):
            hashed.update(chunk)
        return hashed.hexdigest()

    def checksums_of(self, content: bytes | Body, headers: Mapping[str, str]) -> Any:
        """Return the checksums that a request states or asks for, or the error that it gets."""
        prepared = prepared_for(content)
        if prepared and prepared.headers == headers:
            return prepared.checksums
        return self._checksums(bytes(content), headers)


def _md5(content: Any = b"", **options: Any) -> Any:
    if isinstance(content, StandIn):
        return SimpleNamespace(digest=lambda: bytes.fromhex(content.part["etag"].strip('"')))
    return hashlib.md5(content, **options)  # noqa: S324 - what S3 uses
