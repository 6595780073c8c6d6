"""Which parts need which operating system; the rest of the command line runs on all of them."""

import os
import sys

from runctl.model.errors import SetupError

_NAMES = {"darwin": "macOS", "win32": "Windows"}
_CONTAINER = (
    "use the container image `runctl`, which `docker build --tag runctl .` makes in a checkout"
)


def require_linux() -> None:
    """Raise SetupError where the local cloud cannot run: its instances depend on Linux."""
    if sys.platform != "linux":
        raise SetupError(f"the local cloud runs on Linux, not on {_name()}: {_CONTAINER}")


def require_posix(command: str) -> None:
    """Raise SetupError where files cannot be opened relative to a folder's descriptor."""
    if os.open not in os.supports_dir_fd:
        raise SetupError(f"{command} runs on Linux and macOS, not on {_name()}: {_CONTAINER}")


def _name() -> str:
    return _NAMES.get(sys.platform, sys.platform)
