"""Requests to a registry, and the permission of ECR that each of them needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runctl.local.core.protocol import ApiError

# The path below which GetDownloadUrlForLayer lets anybody fetch a layer who knows the address.
LAYERS = "/layers/"
_ROUTE = re.compile(
    r"/v2/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"/(?P<kind>manifests|blobs/uploads|blobs|tags)/(?P<rest>[^/]*)"
)
_ACTIONS = {
    ("GET", "manifests"): "BatchGetImage",
    ("HEAD", "manifests"): "BatchGetImage",
    ("PUT", "manifests"): "PutImage",
    ("GET", "blobs"): "GetDownloadUrlForLayer",
    ("HEAD", "blobs"): "BatchCheckLayerAvailability",
    ("POST", "blobs/uploads"): "InitiateLayerUpload",
    ("GET", "blobs/uploads"): "UploadLayerPart",
    ("PATCH", "blobs/uploads"): "UploadLayerPart",
    ("DELETE", "blobs/uploads"): "UploadLayerPart",
    ("PUT", "blobs/uploads"): "CompleteLayerUpload",
    ("GET", "tags"): "ListImages",
}


@dataclass(frozen=True)
class Operation:
    """A request to a registry; `action` is the permission, `rest` the end of the path."""

    action: str
    repository: str
    kind: str
    rest: str

    @property
    def digest(self) -> str:
        """The digest that it names, or an empty text."""
        return self.rest if ":" in self.rest else ""

    @property
    def tag(self) -> str:
        """The tag that it names, or an empty text."""
        return "" if ":" in self.rest else self.rest


def read_operation(method: str, path: str) -> Operation:
    """Read a request; raise UnsupportedOperation for one that ECR does not have, either."""
    route = _ROUTE.fullmatch(path)
    action = _ACTIONS.get((method, route["kind"])) if route else None
    if route is None or action is None:
        message = "The operation is unsupported."
        raise ApiError("UnsupportedOperation", message, status=405 if route else 404)
    return Operation(action, route["repository"], route["kind"], route["rest"])
