"""The container image of a run: what its attempts pull or load, and run."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ECR_LOGIN = "ecr"


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image, recorded once: later attempts run the same content, even if its tag moved.

    `reference` is what the engine pulls, `name@sha256:…` once the digest is known. `digest` is that
    of the manifest in the registry, or the image id of an archive; empty while unknown. `login` is
    `ecr`, `secret:ID`, or empty for a registry that needs none. `archive` is the S3 URI of an image
    without a registry. `platform` is `linux/amd64` or `linux/arm64`, empty while unknown.
    `size_bytes` is the compressed size, 0 while unknown. `command` is the image's own entry point
    and command together, empty for an image without one or while unknown.
    """

    reference: str
    digest: str = ""
    login: str = ""
    archive: str = ""
    platform: str = ""
    size_bytes: int = 0
    command: tuple[str, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """Return the stored form."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "login": self.login,
            "archive": self.archive,
            "platform": self.platform,
            "size_bytes": self.size_bytes,
            "command": list(self.command),
        }

    @classmethod
    def from_stored(cls, document: Mapping[str, Any]) -> "Image | None":
        """Read an image, whichever version stored it; None if there is nothing to pull or load."""
        texts = {
            name: str(document.get(name) or "")
            for name in ("reference", "digest", "login", "archive", "platform")
        }
        if not texts["reference"] and not texts["archive"]:
            return None
        size, words = document.get("size_bytes"), document.get("command")
        return cls(
            **texts,
            size_bytes=size if type(size) is int else 0,
            command=tuple(map(str, words)) if isinstance(words, list) else (),
        )


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """An image in a registry. `platforms` is empty if they are not known.

    `has_command` is None if the image's configuration is not known.
    """

    image: Image
    platforms: frozenset[str] = frozenset()
    has_command: bool | None = None


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An image in the repository of builds; `used_at` is when it was pushed or last pulled."""

    digest: str
    size_bytes: int
    used_at: datetime
