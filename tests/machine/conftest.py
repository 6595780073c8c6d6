"""Real machines: what they need of this system, and the runs on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local.guest import namespaces
from tests.e2e.testbed import Testbed
from tests.machine.booting import BASE
from tests.machine.machines import FIRST_PROCESS, Machine, Machines

_PROGRAMS = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "journalctl", "ip")


def why_none() -> str:
    """Return why this system can boot no machine; empty if it can."""
    if os.geteuid() != 0:
        return "only root can boot them"
    if missing := [name for name in _PROGRAMS if not shutil.which(name)]:
        return f"{', '.join(missing)} not found: `make system-packages` as root installs them"
    if not (BASE / "usr/bin/systemctl").exists():
        return f"{BASE} is not there: `make system-packages` as root makes it"
    if (
        not Path("/sys/fs/cgroup/unified").is_dir()
        and not Path("/sys/fs/cgroup/cgroup.procs").exists()
    ):
        return "the system has no control groups of version 2"
    if refused := namespaces.try_in_child(namespaces.enter):
        return f"mount namespaces are refused: {refused}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def _can_boot() -> None:
    if reason := why_none():
        if os.environ.get("CI"):
            pytest.fail(f"no machine can be booted: {reason}")
        pytest.skip(f"no machine can be booted: {reason}")


@pytest.fixture(scope="module")
def machines(_can_boot: None, testbed: Testbed) -> Iterator[Machines]:
    """Let the instances of a file's runs be machines, and end them all afterwards."""
    testbed.cloud.set_knobs(first_process=str(FIRST_PROCESS))
    started = Machines(testbed)
    yield started
    started.end()


@pytest.fixture(scope="module")
def machine(machines: Machines) -> Machine:
    """Return the machine of a run that trains during all tests of a file."""
    return machines.start().wait_for_training(step=5)
