"""The contents of an environment, read from the records that pip leaves."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from runctl.model.versions import PackageVersion, Versions


def installed_versions(environment: Path, *, attempt: int) -> Versions:
    """Return the exact version, and the source, of every package of an environment."""
    places = [str(folder) for folder in sorted(environment.glob("lib/python3*/site-packages"))]
    # It remembers what a folder held at a time, and ours have the same time again and again.
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    found = {}
    for distribution in importlib.metadata.distributions(path=places):
        name = distribution.metadata["Name"]
        if name:
            package = _package(name, distribution)
            found[package.name] = package
    return Versions(
        attempt=attempt,
        python=platform.python_version(),
        platform=platform.machine(),
        packages=tuple(found[name] for name in sorted(found)),
    )


def installed_bytes(environment: Path) -> int:
    """Return the size of an environment's files; those that vanish meanwhile do not count."""
    size_bytes = 0
    for parent, _, names in os.walk(environment):
        for name in names:
            with contextlib.suppress(OSError):
                size_bytes += os.lstat(f"{parent}/{name}").st_size
    return size_bytes


def _package(name: str, distribution: importlib.metadata.Distribution) -> PackageVersion:
    origin: dict[str, Any] = {}
    with contextlib.suppress(ValueError, OSError):
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    repository = origin.get("vcs_info", {})
    url = str(origin.get("url", ""))
    return PackageVersion(
        name=re.sub(r"[-_.]+", "-", name).lower(),
        version=distribution.version,
        url=url,
        revision=str(repository.get("requested_revision") or ""),
        commit=str(repository.get("commit_id") or ""),
        sha256=str(origin.get("archive_info", {}).get("hashes", {}).get("sha256") or ""),
        is_local=url.startswith("file:") and not repository,
    )
