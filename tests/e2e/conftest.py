"""A local cloud with the real deployment for all end-to-end tests, with IAM enforced."""

import uuid
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.deploy import deploy
from tests.e2e.testbed import PROJECT, Testbed


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory):
    """Deploy the real template to a fresh local cloud, and take it down at the end."""
    home: Path = tmp_path_factory.mktemp("cloud")
    endpoint = daemon.start(
        home,
        die_with_parent=True,
        own_disks=True,
        # Tests open a trainer's gate by a file below their tmp_path.
        shared_folders=[tmp_path_factory.getbasetemp()],
        environment={"SFN_WAIT_SCALE": "0.02"},
    )
    try:
        deploy(endpoint, project=PROJECT, context={"secrets": "e2e/*", "parameters": "/e2e/*"})
        yield Testbed(endpoint)
    finally:
        daemon.stop(home)


@pytest.fixture(autouse=True)
def _open_market(testbed: Testbed):
    """Open the market for every test, whatever the previous one did."""
    yield
    testbed.cloud.reset()


@pytest.fixture
def new_name():
    """A source of names that no other run has."""
    return lambda: f"test-{uuid.uuid4().hex[:12]}"
