"""The exact versions of a run's dependencies, which all its attempts use."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_FEW = 4  # up to this many are named


@dataclass(frozen=True, kw_only=True)
class PackageVersion:
    """An installed package.

    `url` is its source unless that is an index; `commit` belongs to a repository, of which
    `revision` was requested; `sha256` to an archive. One that `is_local` is part of the project.
    """

    name: str
    version: str
    url: str = ""
    revision: str = ""
    commit: str = ""
    sha256: str = ""
    is_local: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.commit[:12] or self.version}"


@dataclass(frozen=True, kw_only=True)
class Versions:
    """The packages that the first attempt to build the environment installed, and its platform."""

    attempt: int
    python: str
    platform: str
    packages: tuple[PackageVersion, ...]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.packages))
        shown = (
            named if len(self.packages) <= _FEW else f"{len(self.packages)} packages; see --json"
        )
        return f"{shown} (since attempt {self.attempt}, Python {self.python})"

    @property
    def digest(self) -> bytes:
        """The digest of all that determines an environment."""
        rows = [
            (package.name, package.version, package.commit, package.sha256)
            for package in self._from_elsewhere()
        ]
        return hashlib.sha256(json.dumps(sorted(rows)).encode()).digest()

    def constraints(self) -> list[str]:
        """Return lines for pip that pin every package of an index to its version."""
        return [
            f"{package.name}=={package.version}"
            for package in self._from_elsewhere()
            if not package.url
        ]

    def commits(self) -> dict[tuple[str, str], str]:
        """Return the commit of each repository and revision."""
        return {
            (repository_of(package.url), package.revision): package.commit
            for package in self.packages
            if package.commit
        }

    def differing(self, other: "Versions") -> list[tuple[PackageVersion, PackageVersion]]:
        """Return the packages of which `other` has another version, as (ours, theirs).

        A package that only one of them has does not count: platforms need different packages.
        """
        theirs = {package.name: package for package in other.packages}
        return [
            (package, theirs[package.name])
            for package in self._from_elsewhere()
            if package.name in theirs and not _is_same(package, theirs[package.name])
        ]

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        packages = [
            {name: value for name, value in asdict(package).items() if value}
            for package in self.packages
        ]
        return {
            "attempt": self.attempt,
            "python": self.python,
            "platform": self.platform,
            "packages": packages,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Versions":
        """Read the JSON form; what a newer version added is ignored."""
        known = PackageVersion.__dataclass_fields__
        return cls(
            attempt=int(document.get("attempt", 0)),
            python=str(document.get("python", "")),
            platform=str(document.get("platform", "")),
            packages=tuple(
                PackageVersion(**{name: value for name, value in package.items() if name in known})
                for package in document["packages"]
            ),
        )

    def _from_elsewhere(self) -> Sequence[PackageVersion]:
        # Local packages come with the code, which is the same for all attempts.
        return [package for package in self.packages if not package.is_local]


def _is_same(ours: PackageVersion, theirs: PackageVersion) -> bool:
    if ours.commit and theirs.commit:
        return ours.commit == theirs.commit
    if ours.sha256 and theirs.sha256 and ours.url == theirs.url:
        return ours.sha256 == theirs.sha256
    return ours.version == theirs.version


_REPOSITORY = re.compile(r"\b(?P<vcs>git|hg|svn|bzr)\+(?P<url>[^\s;#]+)(?P<fragment>#[^\s;]*)?")


def names_repository(requirement: str) -> bool:
    """Whether a requirement is in a repository."""
    return _REPOSITORY.search(requirement) is not None


def repository_of(url: str) -> str:
    """Return a repository's URL without credentials, for comparison."""
    return re.sub(r"(?<=://)[^/@]*@", "", url).rstrip("/")


def pin_repositories(requirement: str, commits: Mapping[tuple[str, str], str]) -> str:
    """Return a requirement whose repository is pinned to the commit that is known for it."""

    def pinned(match: re.Match[str]) -> str:
        url, revision = match["url"], ""
        scheme, separator, rest = url.partition("://")
        if "@" in rest.partition("/")[2]:
            rest, _, revision = rest.rpartition("@")
            url = f"{scheme}{separator}{rest}"
        commit = commits.get((repository_of(url), revision))
        if commit is None:
            return match[0]
        return f"{match['vcs']}+{url}@{commit}{match['fragment'] or ''}"

    return _REPOSITORY.sub(pinned, requirement)
