"""Instances have the paths that they have on EC2, each its own, apart from the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from runctl.local.guest import isolation, permitted
from tests.local.clouds import Cloud, eventually, unique

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(permitted.why_shared_paths(Path("/var/tmp"))),
        reason="this machine permits no mount namespaces",
    ),
]

LOOK = """#!/bin/sh
for folder in /tmp /var/tmp /dev/shm /var/lib/runctl "$HOME"; do
    if [ -e "$folder/NAME" ]; then echo "found $folder/NAME"; fi
    echo mine > "$folder/NAME" || echo "cannot write to $folder"
done
grep -q systemd /etc/passwd || ls /var/lib > /dev/null || echo "the machine's folders are gone"
python3 -c 'import json; print("python", json.dumps({}))'
mv "$RUNCTL_ROOT/var/lib/runctl/NAME" "$RUNCTL_ROOT/var/lib/runctl/NAME.seen"
ls /var/lib/runctl | grep NAME
echo looked
sleep 1000
"""


def console(cloud: Cloud, instance_id: str) -> str:
    return str(cloud.client("ec2").get_console_output(InstanceId=instance_id).get("Output", ""))


def check(cloud: Cloud, name: str) -> tuple[str, str]:
    """Launch an instance that looks for a name, and leaves it, in all its own folders."""
    instance_id = cloud.launch(LOOK.replace("NAME", name))
    eventually(lambda: "looked" in console(cloud, instance_id))
    return instance_id, console(cloud, instance_id)


def left_on_the_machine(name: str) -> list[Path]:
    folders = ("/tmp", "/var/tmp", "/dev/shm", "/var/lib", "/root", str(Path.home()))
    found = [Path(folder, name) for folder in folders] + [isolation.STATE / name]
    return [path for path in found if path.exists()]


def test_instances_have_the_same_paths_but_separate_content(cloud: Cloud) -> None:
    name, known = unique("mark"), isolation.STATE.exists()
    first, said = check(cloud, name)
    second, also_said = check(cloud, name)
    assert said == also_said == f"python {{}}\n{name}.seen\nlooked\n"
    for instance_id in (first, second):
        # From outside, all of it lies below the root.
        root = cloud.root(instance_id)
        for folder in ("tmp", "var/tmp", "root"):
            assert (root / folder / name).read_text() == "mine\n"
        assert (root / f"var/lib/runctl/{name}.seen").exists()
    assert left_on_the_machine(name) == []
    cloud.client("ec2").terminate_instances(InstanceIds=[first])
    cloud.admin.interrupt(second, notice=False)
    for instance_id in (first, second):
        cloud.admin.wait_for_state(instance_id, "terminated")
        assert str(cloud.root(instance_id)) not in Path("/proc/self/mountinfo").read_text()
    assert left_on_the_machine(name) == []
    assert isolation.STATE.exists() == known
    assert not isolation.HOME.exists()


def test_units_and_commands_run_with_the_paths_of_their_instance(cloud: Cloud) -> None:
    instance_id = cloud.launch(
        "#!/bin/sh\ncat > $RUNCTL_ROOT/etc/systemd/system/a.service <<UNIT\n[Service]\n"
        "Type=oneshot\nExecStart=/bin/sh -c 'echo unit > /tmp/unit'\nUNIT\n"
        "systemctl start a && cat /tmp/unit && echo started\nsleep 1000\n"
    )
    eventually(lambda: "unit\nstarted\n" in console(cloud, instance_id))
    assert (cloud.root(instance_id) / "tmp/unit").read_text() == "unit\n"


def test_a_shared_folder_is_seen_below_tmp(cloud: Cloud, tmp_path: Path) -> None:
    shared, hidden = tmp_path / "shared", tmp_path / "hidden"
    for folder in (shared, hidden):
        folder.mkdir()
        (folder / "data").write_text("data\n")
    cloud.admin.set_knobs(shared_folders=[str(shared)])
    instance_id = cloud.launch(
        f"#!/bin/sh\ncat {shared}/data; cat {hidden}/data; echo back > {shared}/back; echo end\n"
    )
    eventually(lambda: "end" in console(cloud, instance_id))
    assert (shared / "back").read_text() == "back\n"
    if Path("/tmp") in tmp_path.parents:
        assert console(cloud, instance_id).startswith("data\ncat: ")
    # With a user for programs, the closed folder above the roots of instances would be covered.
    cloud.admin.set_knobs(shared_folders=["/tmp"], own_user=False)
    instance_id = cloud.launch(f"#!/bin/sh\ncat {hidden}/data; ls /var/lib/runctl; echo end\n")
    eventually(lambda: "end" in console(cloud, instance_id))
    assert console(cloud, instance_id) == "data\nend\n"
    for wrong in ("relative", str(tmp_path / "absent")):
        with pytest.raises(LocalCloudError, match="shared_folders"):
            cloud.admin.set_knobs(shared_folders=[wrong])


def test_a_killed_local_cloud_leaves_nothing_on_the_machine(tmp_path: Path) -> None:
    endpoint = daemon.start(tmp_path, die_with_parent=True)
    cloud, name = Cloud(endpoint, LocalCloudClient(endpoint.url)), unique("mark")
    cloud.admin.set_knobs(boot_delay=0.05)
    before = Path("/proc/self/mountinfo").read_text()
    instance_id, _ = check(cloud, name)
    root = cloud.root(instance_id)
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: daemon.find(tmp_path) is None)
    daemon.stop(tmp_path)
    eventually(lambda: not root.exists())
    assert Path("/proc/self/mountinfo").read_text() == before
    assert left_on_the_machine(name) == []


@pytest.mark.parametrize("folder", ["/dev/shm", "/var/tmp"])
def test_the_local_cloud_may_lie_in_a_folder_that_instances_have_privately(
    folder: str,
) -> None:
    home = Path(tempfile.mkdtemp(dir=folder))
    try:
        endpoint = daemon.start(home, die_with_parent=True)
        cloud, name = Cloud(endpoint, LocalCloudClient(endpoint.url)), unique("mark")
        cloud.admin.set_knobs(boot_delay=0.05)
        _, said = check(cloud, name)
        assert said == f"python {{}}\n{name}.seen\nlooked\n"
        assert left_on_the_machine(name) == []
    finally:
        daemon.stop(home)
        shutil.rmtree(home)


@pytest.fixture
def cloud_that_shares(tmp_path: Path) -> Iterator[Cloud]:
    endpoint = daemon.start(tmp_path, die_with_parent=True, own_paths=False)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        cloud.admin.set_knobs(boot_delay=0.05)
        yield cloud
    finally:
        daemon.stop(tmp_path)


def test_without_namespaces_instances_use_their_root_and_the_cloud_logs_it(
    cloud_that_shares: Cloud, cloud: Cloud
) -> None:
    health = cloud_that_shares.admin.health()
    assert (health["own_paths"], health["shares_paths_because"]) == (
        False,
        "it was started with this setting",
    )
    assert cloud.admin.health()["own_paths"]
    with pytest.raises(LocalCloudError, match=r"own_user: not possible here: (it needs|only root)"):
        cloud_that_shares.admin.set_knobs(own_user=True)
    shown = "#!/bin/sh\necho $HOME $TMPDIR ${RUNCTL_STATE_DIR:-none}; echo end\n"
    instance_id = cloud_that_shares.launch(shown)
    root = cloud_that_shares.root(instance_id)
    eventually(lambda: "end" in console(cloud_that_shares, instance_id))
    assert console(cloud_that_shares, instance_id) == f"{root} {root}/tmp none\nend\n"
