"""Which tests share a worker, and what begins first, when several workers run them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import botocore.loaders
import pytest

# Each session of botocore parses the models of its services anew, some 0.2 s for each client; the
# files do not change, so all sessions of a test process read them through one loader.
botocore.loaders.create_loader = cache(botocore.loaders.create_loader)

# What is set up once for a whole folder (a local cloud, the synthesized templates) should not be
# set up by every worker; the longest first, so that no worker is left with it at the end.
TOGETHER = ("e2e", "training", "local", "workflow", "infra")
# These have a deployment of their own, beside the other end-to-end tests.
APART = ("test_soak.py", "test_leaks.py", "test_existing_instances.py")
FIRST = ("e2e", "e2e apart", "training", "agent", "local", "infra", "workflow")
TESTS = Path(__file__).parent


def group_of(path: Path) -> str:
    """Return the name of the group that a file's tests belong to."""
    inside = path.relative_to(TESTS)
    folder = inside.parts[0]
    if folder == "e2e" and inside.name in APART:
        return "e2e apart"
    return folder if folder in TOGETHER else inside.as_posix()


def rank_of(path: Path) -> int:
    """Return when a file's tests should begin."""
    group = group_of(path)
    folder = path.relative_to(TESTS).parts[0]
    name = group if group in FIRST else folder
    return FIRST.index(name) if name in FIRST else len(FIRST)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group them; within a group the random order stands."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
    items.sort(key=lambda item: rank_of(item.path))
