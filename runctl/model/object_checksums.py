"""Checksums of S3 objects: by what their content is verified, as a whole or part by part."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Digest(Protocol):
    """A running checksum."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def digest(self) -> bytes:
        """Return the checksum of all bytes so far."""
        ...


class Crc32:
    """The CRC-32 of zlib, in the form of hashlib's digests."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """Return the checksum of all bytes so far, most significant byte first."""
        return self._value.to_bytes(4, "big")


# Only the MD5 is written in hexadecimal, since it is an ETag.
_NEW: Mapping[str, Callable[[], Digest]] = {
    "SHA256": hashlib.sha256,
    "SHA1": hashlib.sha1,
    "CRC32": Crc32,
    "MD5": lambda: hashlib.md5(usedforsecurity=False),
}


@dataclass(frozen=True, kw_only=True)
class Checksum:
    """A checksum of an object. `algorithm` is empty if there is none that can be computed here.

    `part_bytes` is the size of each part but the last one if the checksum is that of the parts'
    checksums, and 0 if it is that of the whole content.
    """

    algorithm: str = ""
    value: str = ""
    part_bytes: int = 0

    @classmethod
    def choose(cls, values: Mapping[str, str], *, size_bytes: int, part_bytes: int) -> "Checksum":
        """Return the first usable one of S3's `values`, by algorithm.

        `part_bytes` is the size of the object's first part, 0 if it was not uploaded in parts. A
        checksum of parts is unusable if they differ in size.
        """
        for algorithm, value in values.items():
            whole, dash, count = value.partition("-")
            if not whole or algorithm not in _NEW:
                continue
            if not dash:
                return cls(algorithm=algorithm, value=value)
            if part_bytes and count == str(max(1, -(-size_bytes // part_bytes))):
                return cls(algorithm=algorithm, value=value, part_bytes=part_bytes)
        return cls()

    @property
    def is_of_parts(self) -> bool:
        """Whether it is the checksum of the checksums of the parts."""
        return bool(self.part_bytes)

    def new(self) -> Digest:
        """Return an empty running checksum of the algorithm."""
        return _NEW[self.algorithm]()

    def matches(self, digests: Sequence[bytes]) -> bool:
        """Whether this is the checksum of content with these digests: of all parts, or the one."""
        if not self.is_of_parts:
            return self.value == self._text(digests[0])
        together = self.new()
        together.update(b"".join(digests))
        return self.value == f"{self._text(together.digest())}-{len(digests)}"

    def _text(self, digest: bytes) -> str:
        return digest.hex() if self.algorithm == "MD5" else base64.b64encode(digest).decode()
