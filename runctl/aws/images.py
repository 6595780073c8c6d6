"""Images in ECR: the repository of a deployment's builds, and images of other repositories."""

import base64
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import RequestError, RunctlError
from runctl.model.image import ECR_LOGIN, FoundImage, Image, StoredImage
from runctl.model.image_build import BuildPlace
from runctl.model.image_reference import ImageReference, parse_image_reference, pinned

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_MISSING = frozenset({"RepositoryNotFoundException", "ImageNotFoundException"})
_DENIED = frozenset({"AccessDeniedException", "AccessDenied", "UnauthorizedOperation"})
# An image's configuration is a few kilobytes.
_MAX_CONFIG_BYTES = 4_000_000
_CONFIG_SECONDS = 10
_MAX_BATCH = 100


class EcrImages:
    """Implements `runctl.control.ports.Images`; `place` names the deployment's repository."""

    def __init__(self, client: Any, *, place: BuildPlace) -> None:
        self._client = client
        self.place = place
        self._repository = place.repository

    def is_here(self, reference: ImageReference) -> bool:
        """Whether an image is in an ECR of the deployment's region.

        The local cloud's ECR has a host of its own, that of the deployment's repository.
        """
        own = parse_image_reference(self._repository)
        if own is not None and reference.host and reference.host == own.host:
            return True
        region = str(self._client.meta.region_name)
        return bool(reference.ecr_account) and reference.ecr_region == region

    def find_built(self, tag: str) -> FoundImage | None:
        """Return the image of that tag in the repository of builds, or None."""
        reference = parse_image_reference(f"{self._repository}:{tag}")
        if reference is None:
            return None
        return self._find(reference)

    def find(self, reference: ImageReference) -> FoundImage:
        """Return an image in ECR; raises RequestError if it is missing or may not be read."""
        found = self._find(reference)
        if found is None:
            raise RequestError(f"{reference} does not exist; push it first, or correct it")
        return found

    def _find(self, reference: ImageReference) -> FoundImage | None:
        wanted = {"imageTag": reference.tag or "latest"}
        if reference.digest:
            wanted = {"imageDigest": reference.digest}
        answer = self._get(reference, [wanted])
        if answer is None:
            return None
        digest, manifest = answer
        if "manifests" in manifest:
            return self._index(reference, digest, manifest)
        config = self._config(reference, manifest)
        platform = _platform(config)
        command = _command(config)
        return FoundImage(
            image=Image(
                reference=pinned(str(reference), digest),
                digest=digest,
                login=ECR_LOGIN,
                platform=platform,
                size_bytes=_size(manifest),
                command=command,
            ),
            platforms=frozenset({platform} - {""}),
            has_command=None if config is None else bool(command),
        )

    def _index(
        self, reference: ImageReference, digest: str, manifest: Mapping[str, Any]
    ) -> FoundImage:
        """Return an image for several platforms; the engine chooses that of its machine."""
        entries = [entry.get("platform", {}) for entry in manifest["manifests"]]
        named = {f"{entry.get('os')}/{entry.get('architecture')}" for entry in entries}
        platforms = frozenset(name for name in named if name.startswith("linux/"))
        image = Image(
            reference=pinned(str(reference), digest),
            digest=digest,
            login=ECR_LOGIN,
            platform=next(iter(platforms)) if len(platforms) == 1 else "",
        )
        return FoundImage(image=image, platforms=platforms)

    def _get(
        self, reference: ImageReference, wanted: Sequence[Mapping[str, str]]
    ) -> tuple[str, Mapping[str, Any]] | None:
        with translated():
            try:
                answer = self._client.batch_get_image(
                    **_where(reference), imageIds=list(wanted), acceptedMediaTypes=list(_MANIFESTS)
                )
            except ClientError as exc:
                code = code_of(exc)
                if code in _MISSING:
                    return None
                if code in _DENIED:
                    raise RequestError(
                        f"{reference} may not be read; let the policy of its repository permit "
                        "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer to this account"
                    ) from exc
                raise
        images = answer.get("images", [])
        if not images:
            return None
        found = images[0]
        return str(found["imageId"]["imageDigest"]), json.loads(found["imageManifest"])

    def _config(
        self, reference: ImageReference, manifest: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Read an image's configuration; None where it cannot be read, which is not a failure."""
        digest = manifest.get("config", {}).get("digest")
        if not digest:
            return None
        try:
            with translated():
                answer = self._client.get_download_url_for_layer(
                    **_where(reference), layerDigest=digest
                )
            url = str(answer["downloadUrl"])
            # S3 in AWS, or the local cloud: the address comes from ECR's own answer.
            with urllib.request.urlopen(url, timeout=_CONFIG_SECONDS) as stream:  # noqa: S310
                config: Any = json.loads(stream.read(_MAX_CONFIG_BYTES))
        except (RunctlError, OSError, ValueError):
            return None
        return config if isinstance(config, dict) else None

    def login(self) -> tuple[str, str]:
        """Return user and password for the registry, valid for twelve hours."""
        with translated():
            answer = self._client.get_authorization_token()
        token = answer["authorizationData"][0]["authorizationToken"]
        user, _, password = base64.b64decode(token).decode().partition(":")
        return user, password

    def stored(self) -> list[StoredImage]:
        """Return the images of the repository of builds."""
        reference = parse_image_reference(self._repository)
        if reference is None:
            return []
        found = []
        with translated():
            pages = self._client.get_paginator("describe_images").paginate(**_where(reference))
            for page in pages:
                found += [_stored(detail) for detail in page["imageDetails"]]
        return found

    def delete(self, digests: Sequence[str]) -> list[str]:
        """Delete images of the repository of builds, which may be gone; return what failed."""
        reference = parse_image_reference(self._repository)
        failed: list[str] = []
        if reference is None:
            return failed
        for start in range(0, len(digests), _MAX_BATCH):
            batch = digests[start : start + _MAX_BATCH]
            with translated():
                answer = self._client.batch_delete_image(
                    **_where(reference), imageIds=[{"imageDigest": digest} for digest in batch]
                )
            failed += [
                f"{failure.get('imageId', {}).get('imageDigest')}: {failure.get('failureReason')}"
                for failure in answer.get("failures", [])
                if failure.get("failureCode") != "ImageNotFound"
            ]
        return failed


def _where(reference: ImageReference) -> dict[str, str]:
    account = {"registryId": reference.ecr_account} if reference.ecr_account else {}
    return {**account, "repositoryName": reference.name}


def _platform(config: Mapping[str, Any] | None) -> str:
    if config is None or not config.get("os") or not config.get("architecture"):
        return ""
    return f"{config['os']}/{config['architecture']}"


def _command(config: Mapping[str, Any] | None) -> tuple[str, ...]:
    inner = (config or {}).get("config") or {}
    words = [*(inner.get("Entrypoint") or []), *(inner.get("Cmd") or [])]
    return tuple(map(str, words))


def _size(manifest: Mapping[str, Any]) -> int:
    return sum(int(layer.get("size", 0)) for layer in manifest.get("layers", []))


def _stored(detail: Mapping[str, Any]) -> StoredImage:
    pushed = detail["imagePushedAt"]
    return StoredImage(
        digest=str(detail["imageDigest"]),
        size_bytes=int(detail.get("imageSizeInBytes", 0)),
        used_at=max(pushed, detail.get("lastRecordedPullTime") or pushed),
    )
