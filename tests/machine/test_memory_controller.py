"""Processes that the kernel kills for lack of memory, with a memory controller of version 2."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.machine import own_kernel
from tests.machine.machines import only_in_test_machine

pytestmark = [pytest.mark.slow, only_in_test_machine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """Return what the agent of a machine has seen."""
    missing = [name for name in (own_kernel.PROGRAM, own_kernel.COMPILER) if not shutil.which(name)]
    if missing:
        message = f"{' and '.join(missing)} not found: `make test-machine` installs that on amd64"
        if os.environ.get("CI") and os.uname().machine == "x86_64":
            pytest.fail(message)
        pytest.skip(message)
    return own_kernel.boot(folder, memory="320M")


@pytest.mark.parametrize(
    ("case", "limit"), [("worker", "no limit of its own"), ("limited", "limit 80 MiB")]
)
def test_trainer_and_other_worker_go_on_when_a_worker_is_killed(
    found: dict[str, Any], case: str, limit: str
) -> None:
    seen = found["cases"][case]
    assert seen["printed"] == ["greedy worker: -9", "patient worker: 7"], seen
    assert seen["saved"] == "went on", seen
    assert (seen["code"], seen["outcome"]) == (0, ["completed", ""]), seen
    (warning,) = seen["warnings"]
    assert warning.startswith(
        f"the kernel killed 1 process of the trainer for lack of memory: {limit}, at most "
    )


def test_attempt_of_a_killed_trainer_has_failed_for_lack_of_memory(found: dict[str, Any]) -> None:
    seen = found["cases"]["trainer"]
    kind, reason = seen["outcome"]
    assert (kind, seen["code"]) == ("failed", -9), seen
    # Its own scope counts from 0, although another trainer's worker was killed before.
    assert "the kernel killed 1 process of the trainer for lack of memory" in reason


def test_systemd_would_end_the_trainer_without_the_scopes_policy(
    found: dict[str, Any], folder: Path
) -> None:
    seen = found["cases"]["default"]
    # It saved as it was asked to, and its exit code says that it has completed.
    # Whether it prints how the worker ended before systemd ends it, is a race.
    assert (seen["saved"], seen["code"]) == ("terminated", 0), seen
    ended = [line for line in own_kernel.journal(folder) if "with result 'oom-kill'" in line]
    assert len(ended) == 1, ended


def test_agent_is_not_killed(found: dict[str, Any]) -> None:
    assert found["score"] == "-500"
    assert found["starts"] == ["started"]
    assert found["unit"] == {
        "MainPID": str(found["pid"]),
        "NRestarts": "0",
        "OOMScoreAdjust": "-500",
    }
