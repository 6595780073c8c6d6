# ruff: noqa: SLF001 - ministack keeps the repositories, and refuses to delete one with images
"""The images of the repositories: the registry has their content, this index their tags."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from ministack.services import ecr

from runctl.local.core import records
from runctl.local.core.protocol import ApiError
from runctl.local.ecr.registry import Registry

Record = dict[str, Any]
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_SCAN_SECONDS = 1.0


class Images:
    """Finds, stores and deletes images by the rules of ECR.

    It acts in the account and the region of the request (`records.scope`); every method raises
    RepositoryNotFoundException if the repository does not exist.
    """

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        self._registry, self._clock = registry, clock
        self._lock = threading.Lock()

    def all(self, repository: str) -> list[Record]:
        """Return a repository's images in the order of their first push."""
        self._settings(repository)
        found: list[Record] = list(ecr._images.setdefault(repository, []))
        return found

    def find(self, repository: str, *, digest: str = "", tag: str = "") -> Record | None:
        """Return the image with a digest and a tag, one of which may be empty."""
        for image in self.all(repository):
            if digest in ("", image["imageDigest"]) and (not tag or tag in image["imageTags"]):
                return image
        return None

    def put(self, repository: str, manifest: bytes, *, media_type: str, tag: str = "") -> str:
        """Store a manifest under a tag, or under its digest only, and return the digest.

        Raises ImageTagAlreadyExistsException in a repository with immutable tags, also for the
        same image, and LayersNotFoundException if the registry refuses the manifest.
        """
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        # Two pushes of one tag at once must not both succeed.
        with self._lock:
            settings = self._settings(repository)
            is_immutable = settings.get("imageTagMutability") == "IMMUTABLE"
            if tag and is_immutable and self.find(repository, tag=tag):
                raise ApiError(
                    "ImageTagAlreadyExistsException",
                    f"The image tag '{tag}' already exists in the '{repository}' repository and "
                    "cannot be overwritten because the repository is immutable.",
                )
            self._store(repository, digest, manifest, media_type or _MANIFEST)
            self._record(repository, digest, manifest.decode(), media_type or _MANIFEST, tag)
        return digest

    def note_pull(self, image: Record) -> None:
        """Record the time of a pull."""
        image["lastRecordedPullTime"] = self._clock()

    def delete(self, repository: str, *, digest: str = "", tag: str = "") -> list[Record]:
        """Delete a tag, or an image with all its tags; return the ids of what was deleted.

        An image whose last tag is deleted is deleted as well.
        """
        with self._lock:
            image = self.find(repository, digest=digest, tag=tag)
            if image is None:
                return []
            gone = [tag] if tag else list(image["imageTags"])
            image["imageTags"] = [kept for kept in image["imageTags"] if kept not in gone]
            if not image["imageTags"]:
                ecr._images[repository].remove(image)
            return [{"imageDigest": image["imageDigest"], "imageTag": name} for name in gone] or [
                {"imageDigest": image["imageDigest"]}
            ]

    def describe(self, repository: str, image: Record) -> Record:
        """Return an ImageDetail."""
        described = {
            "registryId": records.account_id(),
            "repositoryName": repository,
            "imageDigest": image["imageDigest"],
            "imageSizeInBytes": self._size(repository, image),
            "imagePushedAt": image["imagePushedAt"],
            "imageManifestMediaType": image["imageManifestMediaType"],
            "artifactMediaType": _read(image).get("config", {}).get("mediaType"),
            "lastRecordedPullTime": image.get("lastRecordedPullTime"),
        }
        if image["imageTags"]:
            described["imageTags"] = list(image["imageTags"])
        scanning = self._settings(repository).get("imageScanningConfiguration", {})
        # ECR scans images, not the lists that refer to them.
        if scanning.get("scanOnPush") and "config" in _read(image):
            described |= self._scan(image)
        return {name: value for name, value in described.items() if value is not None}

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Return the bytes of a layer, or None if the repository does not have it."""
        connection = self._registry.connect()
        try:
            connection.request("HEAD", f"/v2/{repository}/blobs/{digest}")
            response = connection.getresponse()
            length = response.headers.get("Content-Length", "0")
            return int(length) if response.status == 200 else None
        finally:
            connection.close()

    def check(self, repository: str) -> None:
        """Raise RepositoryNotFoundException if the repository does not exist."""
        self._settings(repository)

    def _settings(self, repository: str) -> Record:
        found = ecr._repositories.get(repository)
        if found is None:
            raise ApiError(
                "RepositoryNotFoundException",
                f"The repository with name '{repository}' does not exist in the registry with id "
                f"'{records.account_id()}'",
            )
        settings: Record = found
        return settings

    def _store(self, repository: str, digest: str, manifest: bytes, media_type: str) -> None:
        connection = self._registry.connect()
        try:
            path = f"/v2/{repository}/manifests/{digest}"
            connection.request("PUT", path, manifest, {"Content-Type": media_type})
            response = connection.getresponse()
            answer = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status != 201:
            raise ApiError("LayersNotFoundException", f"the registry refused the image: {answer}")

    def _record(
        self, repository: str, digest: str, manifest: str, media_type: str, tag: str
    ) -> None:
        now = self._clock()
        images: list[Record] = ecr._images.setdefault(repository, [])
        for other in images:
            if tag in other["imageTags"]:
                other["imageTags"].remove(tag)
        image = self.find(repository, digest=digest)
        if image is None:
            image = {
                "imageDigest": digest,
                "imageTags": [],
                "imageManifest": manifest,
                "imageManifestMediaType": media_type,
            }
            images.append(image)
        image["imagePushedAt"] = now
        if tag:
            image["imageTags"].append(tag)

    def _size(self, repository: str, image: Record) -> int:
        """Add up an image's parts; a list of images counts as its largest one."""
        manifest = _read(image)
        parts = [manifest.get("config", {}), *manifest.get("layers", [])]
        sizes = [sum(int(part.get("size", 0)) for part in parts)]
        named = [entry.get("digest", "?") for entry in manifest.get("manifests", [])]
        children = [self.find(repository, digest=digest) for digest in named]
        return max(sizes + [self._size(repository, child) for child in children if child])

    def _scan(self, image: Record) -> Record:
        finished = image["imagePushedAt"] + _SCAN_SECONDS
        if self._clock() < finished:
            return {"imageScanStatus": {"status": "IN_PROGRESS"}}
        return {
            "imageScanStatus": {"status": "COMPLETE", "description": "The scan was completed."},
            "imageScanFindingsSummary": {
                "imageScanCompletedAt": finished,
                "vulnerabilitySourceUpdatedAt": finished,
                "findingSeverityCounts": {},
            },
        }


def _read(image: Record) -> Record:
    found = json.loads(image["imageManifest"])
    return found if isinstance(found, dict) else {}
