"""A local cloud for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.clouds import Cloud


def _running(home: Path) -> Iterator[Cloud]:
    endpoint = daemon.start(home, die_with_parent=True)
    try:
        yield Cloud(endpoint, LocalCloudClient(endpoint.url))
    finally:
        daemon.stop(home)


@pytest.fixture(scope="session")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    yield from _running(tmp_path_factory.mktemp("cloud"))


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Iterator[Cloud]:
    """A local cloud for all tests, with a fresh market and default knobs for each."""
    shared_cloud.admin.set_knobs(boot_delay=0.05, agent_delay=0.05, shutdown_grace=3)
    yield shared_cloud
    shared_cloud.admin.reset()


@pytest.fixture(scope="session")
def shared_strict_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    for cloud in _running(tmp_path_factory.mktemp("strict")):
        cloud.admin.enforce_iam()
        yield cloud


@pytest.fixture
def strict_cloud(shared_strict_cloud: Cloud) -> Iterator[Cloud]:
    """A local cloud that enforces IAM."""
    shared_strict_cloud.admin.set_knobs(boot_delay=0.05, agent_delay=0.05, shutdown_grace=3)
    yield shared_strict_cloud
    shared_strict_cloud.admin.reset()
