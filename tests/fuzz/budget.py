"""How long each target is fuzzed, and what counts as a failure."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

# For all targets together; `make fuzz` takes an hour.
SECONDS = float(os.environ.get("RUNCTL_FUZZ_SECONDS") or (24 if os.environ.get("CI") else 6))
TARGETS = 8
# Inputs are some kilobytes. Whatever they claim to be, this is far more than they need.
MAX_GROWTH_BYTES = 512 * 1024 * 1024

# Random, without a limit for each example: nothing here depends on the machine's speed.
fuzzed = settings(
    max_examples=100,
    deadline=None,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)


def fuzz(check: Callable[[], object]) -> None:
    """Try more inputs until this target's share of the time is over."""
    until = time.monotonic() + SECONDS / TARGETS
    before = _peak_bytes()
    while True:
        check()
        if time.monotonic() >= until:
            break
    assert _peak_bytes() - before < MAX_GROWTH_BYTES


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def nothing_changes(outside: Path) -> Iterator[None]:
    """Fail if anything outside the target folder is written, created or removed."""
    before = _state(outside)
    yield
    assert _state(outside) == before


def _state(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (info.st_mode, info.st_nlink, info.st_mtime_ns, content)
    return found
