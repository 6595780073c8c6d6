"""What this machine permits the local cloud, each tried in a child process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from runctl.local.guest import isolation, namespaces


def why_no_disks() -> str:
    """Return why instances cannot have disks of a given size; empty if they can."""
    return namespaces.try_in_child(lambda: namespaces.enter(is_shared=True))


def why_shared_paths(scratch: Path) -> str:
    """Return why instances cannot have their own paths; empty if they can."""
    root = Path(tempfile.mkdtemp(dir=scratch)).resolve()
    try:
        return namespaces.try_in_child(lambda: isolation.isolate(root, [root]))
    finally:
        shutil.rmtree(root, ignore_errors=True)
