"""An instance may have a disk of a given size, which really fills up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from tests.local.clouds import Cloud, eventually

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
FILL = """#!/bin/sh
head -c 3000000 /dev/zero > $RUNCTL_ROOT/filler && echo it fits
rm $RUNCTL_ROOT/filler && echo done
sleep 1000
"""


@pytest.fixture
def cloud_with_disks(tmp_path: Path) -> Iterator[Cloud]:
    # As root, its console is then the only file that it sees next to its disk.
    endpoint = daemon.start(tmp_path, die_with_parent=True, own_disks=True, own_user=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        cloud.admin.set_knobs(boot_delay=0.05)
        yield cloud
    finally:
        daemon.stop(tmp_path)


def console(cloud: Cloud, instance_id: str) -> str:
    return str(cloud.client("ec2").get_console_output(InstanceId=instance_id).get("Output", ""))


def test_only_the_instance_with_the_small_disk_fills_it(
    cloud_with_disks: Cloud,
) -> None:
    cloud = cloud_with_disks
    cloud.admin.set_knobs(disk_bytes=2 * MIB)
    small = cloud.launch(FILL)
    eventually(lambda: "done" in console(cloud, small))
    cloud.admin.set_knobs(disk_bytes=0)
    large = cloud.launch(FILL)
    eventually(lambda: "done" in console(cloud, large))
    assert "it fits" in console(cloud, large)
    assert "No space left on device" in console(cloud, small)
    assert str(cloud.root(small)) not in Path("/proc/self/mountinfo").read_text()
    cloud.client("ec2").terminate_instances(InstanceIds=[small])
    cloud.admin.wait_for_state(small, "terminated")
    assert "No space left on device" in console(cloud, small)
    assert str(cloud.root(small)) not in Path(f"/proc/{cloud.endpoint.pid}/mountinfo").read_text()


def test_the_disk_size_at_start_applies_to_all_instances_and_survives_a_reset(
    tmp_path: Path,
) -> None:
    endpoint = daemon.start(
        tmp_path, die_with_parent=True, own_disks=True, disk_bytes=64 * MIB, own_paths=True
    )
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        cloud.admin.reset()
        cloud.admin.set_knobs(boot_delay=0.05)
        # The state folder and /tmp lie on the instance's disk, not next to it.
        script = "#!/bin/sh\ndf --output=size,itotal /var/lib/runctl /tmp | tail -n 2; echo end\n"
        instance_id = cloud.launch(script)
        eventually(lambda: "end" in console(cloud, instance_id))
        sizes = [line.split() for line in console(cloud, instance_id).splitlines()[:2]]
        assert sizes == [["65536", "4096"]] * 2
        for wrong in (1, MIB - 1, 2**60):
            with pytest.raises(LocalCloudError, match="disk_bytes"):
                cloud.admin.set_knobs(disk_bytes=wrong)
    finally:
        daemon.stop(tmp_path)


def test_a_removed_disk_is_not_kept_by_any_other_instance(cloud_with_disks: Cloud) -> None:
    cloud = cloud_with_disks
    cloud.admin.set_knobs(disk_bytes=2 * MIB)
    first = cloud.launch("#!/bin/sh\necho up; sleep 1000\n")
    second = cloud.launch("#!/bin/sh\necho up; sleep 1000\n")
    for instance_id in (first, second):
        eventually(lambda instance_id=instance_id: "up" in console(cloud, instance_id))  # type: ignore[misc]
    cloud.client("ec2").terminate_instances(InstanceIds=[first])
    cloud.admin.wait_for_state(first, "terminated")
    supervisor = cloud.admin.instance(second)["supervisor_pid"]
    mounts = Path(f"/proc/{supervisor}/mountinfo")
    eventually(lambda: str(cloud.root(first)) not in mounts.read_text())
    assert str(cloud.root(second)) in mounts.read_text()


def test_disks_are_refused_where_the_local_cloud_cannot_mount_any(cloud: Cloud) -> None:
    with pytest.raises(LocalCloudError, match="own_disks"):
        cloud.admin.set_knobs(disk_bytes=MIB)


def test_a_killed_local_cloud_leaves_no_disk(cloud_with_disks: Cloud) -> None:
    cloud = cloud_with_disks
    cloud.admin.set_knobs(disk_bytes=2 * MIB)
    instance_id = cloud.launch("#!/bin/sh\necho up; sleep 1000\n")
    root = cloud.root(instance_id)
    eventually(lambda: "up" in console(cloud, instance_id))
    os.kill(cloud.endpoint.pid, signal.SIGKILL)
    eventually(lambda: daemon.find(cloud.endpoint.home) is None)
    daemon.stop(cloud.endpoint.home)
    assert not root.exists()
