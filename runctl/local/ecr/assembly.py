# ruff: noqa: SLF001 - it changes the addresses of ministack's repositories
"""ECR of a local cloud, put together: addresses, images, permissions and the registry."""

from __future__ import annotations

import threading
from pathlib import Path

from ministack.services import ecr

from runctl.local.core.journal import Journal
from runctl.local.ecr.api import Ecr
from runctl.local.ecr.images import Images
from runctl.local.ecr.proxy import Proxy
from runctl.local.ecr.registry import Registry
from runctl.local.ecr.tokens import Tokens


class RegistryService:
    """ECR and the address of its registry, which is opened when a repository is first named."""

    def __init__(self, folder: Path, calls: Journal) -> None:
        self._registry, self._tokens, self._calls = Registry(folder), Tokens(), calls
        self._images = Images(self._registry)
        self._proxy: Proxy | None = None
        self._lock = threading.Lock()
        self.api = Ecr(self._registry, self._images, self._tokens, self.port)
        ecr._repo_uri = lambda name: f"127.0.0.1:{self.port()}/{name}"

    def port(self) -> int:
        """Return the port on which the registry's protocol is served."""
        with self._lock:
            if self._proxy is None:
                self._proxy = Proxy(self._registry, self._images, self._tokens, self._calls)
            return int(self._proxy.server_address[1])

    def close(self) -> None:
        """End the registry."""
        if self._proxy is not None:
            self._proxy.shutdown()
        self._registry.close()
