"""The interpreter that instances, builds and functions have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path


def base_python() -> str:
    """Find the interpreter outside any virtual environment, which instances have as `python3`."""
    candidates: Iterable[Path] = (
        # Instances may see the folder itself, and not a link to it that lies elsewhere.
        Path(sys.base_prefix).resolve() / "bin/python3",
        Path(getattr(sys, "_base_executable", sys.executable)),
    )
    return next(
        (str(candidate) for candidate in candidates if os.access(candidate, os.X_OK)),
        sys.executable,
    )
