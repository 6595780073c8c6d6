"""Which tests share a worker, and what begins first, when several workers run them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import botocore.loaders
import pytest

# Each session of botocore parses the models of its services anew, some 0.2 s for each client; the
# files do not change, so all sessions of a test process read them through one loader.
botocore.loaders.create_loader = cache(botocore.loaders.create_loader)

# What is set up once for a whole folder (the synthesized templates, the frameworks' models) should
# not be set up by every worker.
TOGETHER = ("training", "local", "workflow", "infra")
# Each of these parts of the end-to-end tests has a local cloud, and takes about as long as another.
STORIES = {
    "e2e interruptions": (
        "test_interruptions.py",
        "test_starting_and_stopping.py",
        "test_telling_and_sweeping.py",
    ),
    "e2e machines": (
        "test_soak.py",
        "test_leaks.py",
        "test_existing_instances.py",
        "test_full_disk.py",
    ),
}
OTHERS = "e2e others"
# The longest first, so that no worker is left with one of them at the end.
FIRST = (
    *STORIES,
    OTHERS,
    "training",
    "cli/test_on_the_local_cloud.py",
    "agent",
    "local",
    "infra",
    "workflow",
)
TESTS = Path(__file__).parent


def group_of(path: Path) -> str:
    """Return the name of the group that a file's tests belong to."""
    inside = path.relative_to(TESTS)
    folder = inside.parts[0]
    if folder == "e2e":
        return next((name for name, files in STORIES.items() if inside.name in files), OTHERS)
    return folder if folder in TOGETHER else inside.as_posix()


def rank_of(path: Path) -> int:
    """Return when a file's tests should begin."""
    group = group_of(path)
    folder = path.relative_to(TESTS).parts[0]
    name = group if group in FIRST else folder
    return FIRST.index(name) if name in FIRST else len(FIRST)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Group it, before xdist asks for the groups."""
    item.add_marker(pytest.mark.xdist_group(group_of(item.path)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first; within a group the random order stands."""
    items.sort(key=lambda item: rank_of(item.path))
