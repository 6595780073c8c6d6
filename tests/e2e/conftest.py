"""What every end-to-end test needs besides the deployed system of `tests/conftest.py`."""

import uuid

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
