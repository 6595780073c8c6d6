"""The contents of an environment, read from the records that pip leaves."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from runctl.beneath.folder import Folder
from runctl.beneath.opened_file import OpenedFile
from runctl.model.versions import PackageVersion, Versions

# The description of a package is part of it.
MAX_RECORD_BYTES = 4 * 1024 * 1024


class _Installed(importlib.metadata.Distribution):
    """The record of a package in a folder that its programs may write to."""

    def __init__(self, environment: Folder, path: str) -> None:
        self._environment = environment
        self._path = path

    def read_text(self, filename: str) -> str | None:
        """Return a file of the record; None without one."""
        try:
            descriptor = self._environment.open(f"{self._path}/{filename}".rstrip("/"))
        except OSError:
            return None
        try:
            content = OpenedFile(descriptor, filename).read(0, MAX_RECORD_BYTES)
        finally:
            os.close(descriptor)
        return content.decode("utf-8", errors="replace")

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """Return where a file of the package is."""
        return Path(self._environment.path, self._path, "..", path)


def installed_versions(environment: Path, *, attempt: int) -> Versions:
    """Return the exact version, and the source, of every package of an environment."""
    found = {}
    with contextlib.suppress(FileNotFoundError), Folder.opened(environment) as folder:
        for path in _records(folder):
            distribution = _Installed(folder, path)
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


def _records(environment: Folder) -> list[str]:
    """Return the folders, or files, in which installers record packages."""
    found = []
    for python in _names(environment, "lib"):
        if python.startswith("python3"):
            place = f"lib/{python}/site-packages"
            found += [
                f"{place}/{name}"
                for name in _names(environment, place)
                if name.endswith((".dist-info", ".egg-info"))
            ]
    return found


def _names(folder: Folder, path: str) -> list[str]:
    try:
        with os.scandir(folder.at(path)) as found:
            return sorted(item.name for item in found)
    except (FileNotFoundError, NotADirectoryError):
        return []


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
