"""Nothing is left of a machine, also if the local cloud and its supervisor are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.clouds import Cloud, eventually
from tests.machine import control_groups
from tests.machine.machines import FIRST_PROCESS

pytestmark = pytest.mark.slow


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """Start a local cloud whose instances are machines."""
    endpoint = daemon.start(tmp_path / "cloud", die_with_parent=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url, key=endpoint.keys.admin))
        cloud.admin.set_knobs(first_process=str(FIRST_PROCESS))
        yield cloud
    finally:
        daemon.stop(endpoint.home)


def boot(cloud: Cloud) -> tuple[str, int]:
    """Boot a machine and return its instance and its first process."""
    instance_id = cloud.launch("#!/bin/sh\nsleep 600\n")
    leader = eventually(lambda: control_groups.leader_of(instance_id))
    return instance_id, leader


def groups_of(instance_id: str) -> list[str]:
    return [group for group in control_groups.left() if group.endswith(instance_id)]


def test_nothing_is_left_when_the_local_cloud_ends(cloud: Cloud) -> None:
    instance_id, leader = boot(cloud)
    assert groups_of(instance_id)
    daemon.stop(cloud.endpoint.home)
    assert not Path(f"/proc/{leader}").exists()
    eventually(lambda: not groups_of(instance_id))


def test_nothing_runs_after_a_kill_and_the_next_machine_removes_the_control_groups(
    cloud: Cloud,
) -> None:
    instance_id, leader = boot(cloud)
    supervisor = cloud.admin.instance(instance_id)["supervisor_pid"]
    for pid in (cloud.endpoint.pid, supervisor):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{leader}").exists())
    assert control_groups.leader_of(instance_id) is None
    assert instance_id not in Path("/proc/mounts").read_text()
    assert not Path("/run/systemd/nspawn/propagate", instance_id).exists()
    eventually(lambda: not Path(f"/proc/{supervisor}/exe").exists())
    control_groups.remove_abandoned()
    assert groups_of(instance_id) == []
