"""A local cloud with the real definition, whose functions follow a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.clouds import Cloud
from tests.workflow.scripted import ScriptedWorkflow


@pytest.fixture(scope="session")
def shared_workflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedWorkflow]:
    home = tmp_path_factory.mktemp("workflow")
    endpoint = daemon.start(home, die_with_parent=True)
    try:
        yield ScriptedWorkflow(Cloud(endpoint, LocalCloudClient(endpoint.url)))
    finally:
        daemon.stop(home)


@pytest.fixture
def workflow(shared_workflow: ScriptedWorkflow) -> Iterator[ScriptedWorkflow]:
    """Shorten waits a hundredfold; heartbeats expire as they do on AWS."""
    shared_workflow.cloud.admin.set_knobs(wait_scale=0.01)
    yield shared_workflow
    shared_workflow.cloud.admin.reset()
