"""The API of ECR where the registry decides: images, layers and authorization tokens."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from runctl.local.core import records
from runctl.local.core.protocol import ApiError, operation
from runctl.local.ecr.images import Images, Record
from runctl.local.ecr.operations import LAYERS
from runctl.local.ecr.registry import Registry
from runctl.local.ecr.tokens import USER, Tokens

Request = Mapping[str, Any]
_PAGE = 100
_NOT_FOUND = "Requested image not found"
# The parts of a push that ministack would answer without keeping anything.
_DOCKER_ONLY = frozenset({"InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload"})


class Authorize(Protocol):
    """Checks that the caller has the permission for a call."""

    def __call__(self, action: str, *, on_launch: bool = False, **facts: list[str]) -> None:
        """Raise AccessDeniedException unless the call is allowed."""


class Ecr:
    """Answers the calls of ECR that depend on what was pushed; `port` returns the registry's."""

    def __init__(
        self, registry: Registry, images: Images, tokens: Tokens, port: Callable[[], int]
    ) -> None:
        self._registry, self._images, self._tokens, self._port = registry, images, tokens, port
        self._actions: Mapping[str, Callable[[Request], Record]] = {
            "ListImages": self._list,
            "DescribeImages": self._describe,
            "BatchGetImage": self._get,
            "BatchDeleteImage": self._delete,
            "PutImage": self._put,
            "BatchCheckLayerAvailability": self._check_layers,
            "GetDownloadUrlForLayer": self._download_url,
        }

    def answers(self, action: str) -> bool:
        """Return whether a call is answered here, or left to ministack."""
        return action == "GetAuthorizationToken" or action in {*self._actions, *_DOCKER_ONLY}

    def answer(
        self, action: str, request: Request, authorize: Authorize, *, access_key: str
    ) -> Record:
        """Perform one call of ECR."""
        if action == "GetAuthorizationToken":
            authorize(action)
            return self._authorization(access_key)
        shape = operation("ecr", action).input_shape
        for name in shape.required_members if shape else []:
            if name not in request:
                raise ApiError("InvalidParameterException", f"Missing parameter '{name}'")
        authorize(action, repository=[request["repositoryName"]])
        if action in _DOCKER_ONLY:
            message = f"The local cloud has no {action}: push layers with Docker."
            raise ApiError("UnsupportedOperation", message)
        if request.get("registryId", records.account_id()) != records.account_id():
            message = f"The registry with id '{request['registryId']}' does not exist here"
            raise ApiError("RepositoryNotFoundException", message)
        return self._actions[action](request)

    def _authorization(self, access_key: str) -> Record:
        self._registry.check()
        password, grant = self._tokens.issue(
            access_key=access_key, account=records.account_id(), region=records.region()
        )
        data = {
            "authorizationToken": base64.b64encode(f"{USER}:{password}".encode()).decode(),
            "expiresAt": grant.expires_at,
            "proxyEndpoint": f"http://127.0.0.1:{self._port()}",
        }
        return {"authorizationData": [data]}

    def _list(self, request: Request) -> Record:
        ids = []
        for image in self._filtered(request):
            tags = image["imageTags"]
            ids += [{"imageDigest": image["imageDigest"], "imageTag": tag} for tag in tags]
            if not tags:
                ids.append({"imageDigest": image["imageDigest"]})
        page, more = _page(ids, request)
        return {"imageIds": page, **more}

    def _describe(self, request: Request) -> Record:
        repository = request["repositoryName"]
        more: Record = {}
        if "imageIds" in request:
            found = [self._named(repository, image_id) for image_id in request["imageIds"]]
        else:
            found, more = _page(self._filtered(request), request)
        details = [self._images.describe(repository, image) for image in found]
        return {"imageDetails": details, **more}

    def _get(self, request: Request) -> Record:
        repository = request["repositoryName"]
        images, failures = [], []
        for image_id in request["imageIds"]:
            found = self._find(repository, image_id)
            if found is None:
                failures.append(_failure(image_id))
            else:
                images.append(_image(repository, found, image_id.get("imageTag", "")))
        return {"images": images, "failures": failures}

    def _delete(self, request: Request) -> Record:
        gone, failures = [], []
        for image_id in request["imageIds"]:
            deleted = self._images.delete(request["repositoryName"], **_terms(image_id))
            gone += deleted
            if not deleted:
                failures.append(_failure(image_id))
        return {"imageIds": gone, "failures": failures}

    def _put(self, request: Request) -> Record:
        repository, tag = request["repositoryName"], request.get("imageTag", "")
        manifest = request["imageManifest"].encode()
        known = self._images.find(repository, tag=tag) if tag else None
        if known is not None and known["imageManifest"].encode() == manifest:
            message = f"Image with tag '{tag}' and this digest already exists in '{repository}'"
            raise ApiError("ImageAlreadyExistsException", message)
        media_type = request.get("imageManifestMediaType", "")
        digest = self._images.put(repository, manifest, media_type=media_type, tag=tag)
        stored = self._images.find(repository, digest=digest)
        return {"image": _image(repository, stored or {}, tag)}

    def _check_layers(self, request: Request) -> Record:
        repository = request["repositoryName"]
        self._images.check(repository)
        layers = []
        for digest in request["layerDigests"]:
            size = self._images.blob_size(repository, digest)
            availability = "UNAVAILABLE" if size is None else "AVAILABLE"
            layer: Record = {"layerDigest": digest, "layerAvailability": availability}
            layers.append(layer if size is None else layer | {"layerSize": size})
        return {"layers": layers, "failures": []}

    def _download_url(self, request: Request) -> Record:
        repository, digest = request["repositoryName"], request["layerDigest"]
        self._images.check(repository)
        if self._images.blob_size(repository, digest) is None:
            message = f"The layer with digest '{digest}' is not in the repository '{repository}'"
            raise ApiError("LayersNotFoundException", message)
        secret = self._tokens.link(repository, digest)
        url = f"http://127.0.0.1:{self._port()}{LAYERS}{secret}"
        return {"downloadUrl": url, "layerDigest": digest}

    def _filtered(self, request: Request) -> list[Record]:
        wanted = request.get("filter", {}).get("tagStatus", "ANY")
        return [
            image
            for image in self._images.all(request["repositoryName"])
            if wanted == "ANY" or (wanted == "TAGGED") == bool(image["imageTags"])
        ]

    def _find(self, repository: str, image_id: Record) -> Record | None:
        return self._images.find(repository, **_terms(image_id))

    def _named(self, repository: str, image_id: Record) -> Record:
        found = self._find(repository, image_id)
        if found is None:
            digest, tag = (image_id.get(key, "null") for key in ("imageDigest", "imageTag"))
            raise ApiError(
                "ImageNotFoundException",
                f"The image with imageId {{imageDigest:'{digest}', imageTag:'{tag}'}} does not "
                f"exist within the repository with name '{repository}' in the registry with id "
                f"'{records.account_id()}'",
            )
        return found


def _terms(image_id: Record) -> dict[str, str]:
    return {"digest": image_id.get("imageDigest", ""), "tag": image_id.get("imageTag", "")}


def _failure(image_id: Record) -> Record:
    return {"imageId": image_id, "failureCode": "ImageNotFound", "failureReason": _NOT_FOUND}


def _image(repository: str, image: Record, tag: str) -> Record:
    image_id = {"imageDigest": image["imageDigest"]}
    return {
        "registryId": records.account_id(),
        "repositoryName": repository,
        "imageId": image_id | ({"imageTag": tag} if tag else {}),
        "imageManifest": image["imageManifest"],
        "imageManifestMediaType": image["imageManifestMediaType"],
    }


def _page(found: list[Record], request: Request) -> tuple[list[Record], Record]:
    """Return a page of the results, and the token of the next one if there is one."""
    token = request.get("nextToken", "0")
    if not token.isdigit():
        raise ApiError("InvalidParameterException", "Invalid parameter at 'nextToken'")
    end = int(token) + request.get("maxResults", _PAGE)
    return found[int(token) : end], ({"nextToken": str(end)} if end < len(found) else {})
