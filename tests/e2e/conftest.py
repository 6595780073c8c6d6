"""What every end-to-end test needs besides the deployed system of `tests/conftest.py`."""

import uuid
from pathlib import Path

import pytest

from tests.e2e.testbed import Testbed


@pytest.fixture(autouse=True)
def _open_market(testbed: Testbed):
    """Open the market for every test, whatever the previous one did."""
    yield
    testbed.cloud.reset()


@pytest.fixture
def new_name():
    """A source of names that no other run has."""
    return lambda: f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _shared_with_programs(testbed: Testbed, tmp_path: Path) -> None:
    """Let programs write to the folder by which a test and they signal each other."""
    testbed.let_programs_write(tmp_path)
