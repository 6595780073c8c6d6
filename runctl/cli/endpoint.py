"""The endpoint of the running local cloud."""

from __future__ import annotations

from runctl.local import daemon
from runctl.local.core.private import FolderNotPrivateError
from runctl.local.daemon import Endpoint
from runctl.model.errors import NotFoundError, RefusedError


def find_local_cloud() -> Endpoint:
    """Return the running local cloud; raises NotFoundError when there is none."""
    try:
        endpoint = daemon.find()
    except FolderNotPrivateError as exc:
        raise RefusedError(str(exc)) from exc
    if endpoint is None:
        raise NotFoundError(
            f"no local cloud is running in {daemon.default_home()}; start it with `runctl local up`"
        )
    return endpoint
