"""A local cloud with the real definition, its functions replaced by actors that follow a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.clouds import Cloud
from tests.workflow.stage import Stage


@pytest.fixture(scope="session")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("workflow")
    endpoint = daemon.start(home, die_with_parent=True)
    try:
        yield Stage(Cloud(endpoint, LocalCloudClient(endpoint.url)))
    finally:
        daemon.stop(home)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """Waits pass a hundred times faster, heartbeats run out as they do on AWS."""
    shared_stage.cloud.admin.set_knobs(wait_scale=0.01)
    yield shared_stage
    shared_stage.cloud.admin.reset()
