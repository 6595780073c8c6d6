"""Instances have a Docker engine as on EC2, of which nothing is left when they end."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from runctl.local.codebuild.engine import BuildEngine, EngineNotStartedError
from runctl.local.guest import permitted
from tests import base_images
from tests.docker_engine import Engine, needs_engine, needs_registry, serving_engine
from tests.local.clouds import Cloud, eventually, unique
from tests.local.test_ecr import login_of, make_repository

pytestmark = [needs_engine, needs_registry, pytest.mark.slow]


@pytest.fixture(scope="module")
def image(shared_cloud: Cloud) -> str:
    """A busybox in a repository of the local cloud."""
    ecr = shared_cloud.client("ecr")
    address = f"{make_repository(ecr)['repositoryUri']}:1"
    with serving_engine() as engine:
        engine.import_base("busybox", "busybox")
        engine.push("busybox", address, login=login_of(ecr))
    return address


def output(cloud: Cloud, instance_id: str) -> str:
    return str(cloud.client("ec2").get_console_output(InstanceId=instance_id).get("Output", ""))


def run(cloud: Cloud, script: str) -> tuple[str, list[str]]:
    """Run a script on a new instance; return the instance and the lines that it printed."""
    instance_id = cloud.launch(f"#!/bin/sh\nexec 2> /dev/null\n{script}\necho done\n")
    eventually(lambda: "done\n" in output(cloud, instance_id))
    return instance_id, output(cloud, instance_id).splitlines()


def pulling(cloud: Cloud, image: str) -> str:
    """Return the commands that start the engine, log in and pull; the last prints the image."""
    registry, password = image.partition("/")[0], login_of(cloud.client("ecr"))[1]
    login = f"docker login --username AWS --password-stdin {registry} > /dev/null 2>&1"
    return f"systemctl start docker\necho {password} | {login}\ndocker pull --quiet {image}\n"


def control_groups(instance_id: str) -> list[Path]:
    # Not `glob`, which raises an error when a group disappears meanwhile.
    wanted = f"runctl-{instance_id}"
    return [Path(top, wanted) for top, below, _ in os.walk("/sys/fs/cgroup") if wanted in below]


def processes_with(text: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in words:
                found.append(int(folder.name))
    return found


def processes_in(working_folder: Path) -> list[Path]:
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == working_folder:
                found.append(link)
    return found


def test_an_instance_pulls_with_a_token_and_runs_containers(cloud: Cloud, image: str) -> None:
    script = f"""
    systemctl is-active docker
    {pulling(cloud, image)}
    systemctl is-active docker
    echo from-the-instance > /tmp/note
    docker run --rm --network host -v /tmp:/t {image} cat /t/note
    docker run --rm {image} sh -c 'exit 7'; echo code $?
    docker run --init --memory 32m --name full {image} tail /dev/zero
    docker inspect -f '{{{{.State.OOMKilled}}}} {{{{.State.ExitCode}}}}' full
    docker run --name train -d {image} sh -c 'trap "exit 9" TERM; sleep 100 & wait' > /dev/null
    docker stop train > /dev/null; docker inspect -f 'ended {{{{.State.ExitCode}}}}' train
    docker info -f '{{{{.DockerRootDir}}}} {{{{.CgroupDriver}}}}'; ls -d /run/docker.sock
    """
    _, lines = run(cloud, script)
    assert lines == [
        "inactive", image, "active", "from-the-instance", "code 7", "true 137", "ended 9",
        "/var/lib/docker cgroupfs", "/run/docker.sock", "done",
    ]  # fmt: skip


def test_a_reclaimed_instance_leaves_no_process_mount_or_control_group(
    cloud: Cloud, image: str
) -> None:
    mark = unique("mark")
    script = pulling(cloud, image)
    script += (
        f"docker run --detach --network host {image} sh -c 'trap : TERM; sleep 1000; : {mark}'\n"
    )
    script += "docker inspect -f '{{.State.Pid}}' $(docker ps -q)\n"
    instance_id, lines = run(cloud, script)
    pid = int(lines[-2])
    # The agent sees a container's processes by the same numbers.
    assert pid in processes_with(mark)
    root = cloud.root(instance_id)
    assert control_groups(instance_id)
    assert any((root / "var/lib/docker/overlay2").iterdir())
    cloud.admin.interrupt(instance_id, notice=False)
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert processes_with(mark) == []
    assert processes_with(f"runctl-{instance_id}") == []
    assert control_groups(instance_id) == []
    assert str(root) not in Path("/proc/mounts").read_text()
    eventually(lambda: not (root / "var/lib/docker").exists())


def test_a_killed_local_cloud_leaves_nothing_of_engines_and_registry(tmp_path: Path) -> None:
    endpoint = daemon.start(tmp_path, die_with_parent=True)
    cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
    mark = unique("mark")
    script = f"docker run --detach busybox sh -c 'sleep 1000; : {mark}'\n"
    archive, _ = base_images.archive("busybox")
    cloud.admin.set_knobs(shared_folders=[str(archive.parent)])
    script = f"systemctl start docker; docker import {archive} busybox\n{script}"
    instance_id, _ = run(cloud, script)
    ecr = cloud.client("ecr")
    name, layers = make_repository(ecr)["repositoryName"], [f"sha256:{'0' * 64}"]
    ecr.batch_check_layer_availability(repositoryName=name, layerDigests=layers)
    assert processes_with(mark)
    assert control_groups(instance_id)
    assert processes_in(tmp_path / "tmp/registry")
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: not processes_with(mark))
    eventually(lambda: not control_groups(instance_id))
    eventually(lambda: not processes_in(tmp_path / "tmp/registry"))


def test_a_container_is_stopped_in_order_when_its_instance_shuts_down(
    cloud: Cloud, image: str
) -> None:
    script = pulling(cloud, image)
    script += (
        f"docker run --detach --network host -v /var/lib/runctl:/s {image} "
        "sh -c 'trap \"echo bye > /s/bye; exit\" TERM; echo > /s/hi; while :; do sleep 0.1; done'\n"
        "until [ -e /var/lib/runctl/hi ]; do sleep 0.1; done\n"
    )
    instance_id, _ = run(cloud, script)
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert (cloud.root(instance_id) / "var/lib/runctl/bye").read_text() == "bye\n"


def test_two_instances_have_separate_engines(cloud: Cloud, image: str) -> None:
    first, _ = run(cloud, pulling(cloud, image) + "docker images -q\n")
    _, lines = run(cloud, "systemctl start docker; docker images -q | wc -l\n")
    assert lines == ["0", "done"]
    assert cloud.admin.instance(first)["state"] == "running"


def test_a_cloud_has_an_engine_for_builds_that_ends_with_it() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        engine = BuildEngine(Path(name, "engine"))
        host = engine.host()
        assert engine.host() == host
        client = Engine(Path(name))
        archive, _ = base_images.archive("busybox")
        client.docker("import", archive, "busybox")
        mark = unique("mark")
        client.docker("run", "--detach", "busybox", "sh", "-c", f"sleep 1000; : {mark}")
        assert processes_with(mark)
        engine.close()
        assert processes_with(mark) == []
        assert not Path(name, "engine").exists()


def test_an_engine_whose_socket_would_have_too_long_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineNotStartedError, match="RUNCTL_LOCAL_HOME"):
        BuildEngine(tmp_path / ("x" * 100)).host()


def test_the_reason_for_having_no_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert permitted.why_no_engine("") == ""
    assert "denied" in permitted.why_no_engine("denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert permitted.why_no_engine("") == "only root can run one"
