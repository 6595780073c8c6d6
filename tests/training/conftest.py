"""The fixtures of the tests of the trainer's side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.agent.runtime.training_path import lay_out
from tests.training.place import Place, framework_python


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the agent puts on the trainer's path."""
    return lay_out(tmp_path_factory.mktemp("helper") / "training-path")


@pytest.fixture
def place(tmp_path: Path, helper: Path) -> Iterator[Place]:
    """A place where programs run as under the agent; they end with the test."""
    made = Place(tmp_path, helper)
    yield made
    made.end()


@pytest.fixture(scope="session")
def frameworks() -> Path:
    """The interpreter that has the frameworks."""
    return framework_python()
