"""References to container images: `registry/name:tag` or `registry/name@sha256:…`."""

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# The grammar of the engine's references, which separates a registry from a name by its dot, its
# port, or the word localhost.
_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d{1,5})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<name>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>{DIGEST.pattern}))?"
)
_ECR_HOST = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
)


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """The parts of a reference. `host` is empty for Docker Hub; tag and digest may be empty."""

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    @property
    def registry(self) -> str:
        """The registry's host, with its port if there is one."""
        return self.host or DOCKER_HUB

    @property
    def repository(self) -> str:
        """The reference without tag and digest."""
        return f"{self.host}/{self.name}" if self.host else self.name

    @property
    def ecr_account(self) -> str:
        """The account whose ECR has the image; empty for another registry."""
        found = _ECR_HOST.fullmatch(self.host)
        return found["account"] if found else ""

    @property
    def ecr_region(self) -> str:
        """The region of the ECR that has the image; empty for another registry."""
        found = _ECR_HOST.fullmatch(self.host)
        return found["region"] if found else ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse_image_reference(text: str) -> ImageReference | None:
    """Read a reference; None if it is not valid."""
    found = _REFERENCE.fullmatch(text)
    if found is None or len(found["name"]) > 255:
        return None
    return ImageReference(
        host=found["host"] or "",
        name=found["name"],
        tag=found["tag"] or "",
        digest=found["digest"] or "",
    )


def pinned(reference: str, digest: str) -> str:
    """Return the reference `name@digest` of the same repository.

    Raises ValueError if the reference is not valid.
    """
    read = parse_image_reference(reference)
    if read is None or not DIGEST.fullmatch(digest):
        raise ValueError(f"{reference!r} with {digest!r} is not a valid image reference")
    return f"{read.repository}@{digest}"
