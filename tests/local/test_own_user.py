"""As root, programs of an instance run as a user of their own, who reaches its files only."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.agent.instance.left_ipc import find_ipc_of, remove_ipc_of
from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from runctl.local.core.interpreter import base_python
from runctl.local.guest import isolation, namespaces, network_namespaces, own_user, permitted
from runctl.local.guest.own_user import NAME, UID
from tests.agent.without_seccomp import refuse_filters
from tests.local.clouds import Cloud, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(permitted.why_same_user(Path("/var/tmp"), "/usr/bin/python3", "")),
        reason="only root, with mount namespaces, can start programs of another user",
    ),
]
needs_networks = pytest.mark.skipif(
    network_namespaces.find_tool() is None, reason="ip is not installed"
)
# What a launcher of the agent does with a program: it becomes the user, without any privilege.
LOOK = """#!/bin/sh
cat > $RUNCTL_ROOT/look <<'PROGRAM'
id -un; id -u
python3 -c 'import json, ssl; print("python works")'
ls -d $RUNCTL_ROOT/var/log >/dev/null && echo "its own folders are open"
cat SECRET && echo "found a secret"
ls $(dirname $RUNCTL_ROOT)
touch $RUNCTL_ROOT/planted "$HOME/planted" 2>/dev/null && echo "it may write as root does"
curl -s -o /dev/null -w '%{http_code}\\n' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
    $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token
PROGRAM
cat SECRET || echo "root sees no secret either"
curl -s -o /dev/null -w 'root %{http_code}\\n' -X PUT \
    -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
    $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token
echo "$RUNCTL_TRAINER_USER begins"
setpriv --reuid UID --regid UID --clear-groups --no-new-privs sh $RUNCTL_ROOT/look 2>/dev/null
echo looked
sleep 1000
"""


def console(cloud: Cloud, instance_id: str) -> str:
    return str(cloud.client("ec2").get_console_output(InstanceId=instance_id).get("Output", ""))


@pytest.mark.parametrize(
    ("own_networks", "refusal"),
    [(False, "403"), pytest.param(True, "000", marks=needs_networks)],
    ids=["the machine's network", "a network of its own"],
)
def test_the_user_reaches_its_instance_and_neither_the_machine_nor_the_metadata(
    cloud: Cloud, own_networks: bool, refusal: str
) -> None:
    known = [Path(path).read_bytes() for path in ("/etc/passwd", "/etc/group")]
    secret = cloud.endpoint.home / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    assert cloud.admin.health()["own_user"]
    cloud.admin.set_knobs(own_networks=own_networks)
    instance_id = cloud.launch(LOOK.replace("SECRET", str(secret)).replace("UID", str(UID)))
    eventually(lambda: "looked" in console(cloud, instance_id))
    lines = console(cloud, instance_id).splitlines()
    assert lines[0].startswith("cat: "), "the cat of root"
    assert lines[1:] == [
        "root sees no secret either", "root 200", f"{NAME} begins", NAME, str(UID), "python works",
        "its own folders are open", instance_id, refusal, "looked",
    ]  # fmt: skip
    assert [Path(path).read_bytes() for path in ("/etc/passwd", "/etc/group")] == known
    # From outside, its folder is as closed as ever.
    above = cloud.root(instance_id).parent
    assert stat.S_IMODE(above.stat().st_mode) == 0o700
    assert str(above) not in Path("/proc/self/mountinfo").read_text()


def test_the_user_can_be_turned_off_for_instances_that_boot_afterwards(cloud: Cloud) -> None:
    with pytest.raises(LocalCloudError, match="own_user: 1 is not a bool"):
        cloud.admin.set_knobs(own_user=1)
    cloud.admin.set_knobs(own_user=False)
    health = cloud.admin.health()
    assert (health["own_user"], health["shares_user_because"]) == (False, "")
    script = f'getent passwd {NAME} || echo unknown; echo "user: $RUNCTL_TRAINER_USER"'
    instance_id = cloud.launch(f"#!/bin/sh\n{script}\nsleep 1000\n")
    eventually(lambda: "user:" in console(cloud, instance_id))
    assert console(cloud, instance_id).splitlines() == ["unknown", "user: "]
    assert stat.S_IMODE(cloud.root(instance_id).stat().st_mode) == 0o700


def test_where_the_user_is_not_possible_only_a_cloud_that_demands_it_does_not_start(
    tmp_path: Path,
) -> None:
    reason = "it needs mounts (it was started with this setting)"
    with pytest.raises(daemon.LocalCloudStartError) as refused:
        daemon.start(tmp_path / "cloud", die_with_parent=True, own_paths=False, own_user=True)
    assert f"programs cannot have a user of their own: {reason}" in str(refused.value)
    endpoint = daemon.start(tmp_path / "cloud", die_with_parent=True, own_paths=False)
    try:
        with pytest.raises(daemon.LocalCloudStartError, match="own_user cannot be applied"):
            daemon.start(endpoint.home, own_user=False)
        admin = LocalCloudClient(endpoint.url)
        health = admin.health()
        assert (health["own_user"], health["shares_user_because"]) == (False, reason)
        with pytest.raises(LocalCloudError, match="own_user: not possible here: it needs mounts"):
            admin.set_knobs(own_user=True)
    finally:
        daemon.stop(endpoint.home)
    said = (endpoint.home / "cloud.log").read_text()
    assert f"programs run as the user of the local cloud: {reason}" in said


def test_the_reasons_why_the_user_is_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mounts (none)" in permitted.why_same_user(Path("/var/tmp"), "/usr/bin/python3", "none")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root" in permitted.why_same_user(Path("/var/tmp"), "/usr/bin/python3", "")


def test_a_kernel_that_refuses_what_the_agent_does_to_programs_is_a_reason(tmp_path: Path) -> None:
    found = tmp_path / "found"

    def act() -> None:
        refuse_filters()
        found.write_text(permitted.why_same_user(Path("/var/tmp"), "/usr/bin/python3", ""))

    assert namespaces.try_in_child(act) == ""
    assert "the kernel refuses what keeps programs from privileges and keys" in found.read_text()


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder of which every user may enter all parents."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_an_interpreter_that_others_cannot_read_is_a_reason(place: Path) -> None:
    (place / "bin").mkdir()
    python = place / "bin/python3"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o700)
    assert str(python) in permitted.why_same_user(Path("/var/tmp"), str(python), "")


def in_namespace(place: Path, needed: list[Path], script: str) -> str:
    """Return what a shell of the user prints where the ways to some paths are open."""
    output = place / "output"
    output.touch()

    def act() -> None:
        os.umask(0o022)
        namespaces.enter()
        stage = place / "stage"
        stage.mkdir()
        own_user.open_ways(needed, stage)
        own_user.introduce(place)
        stage.rmdir()
        with output.open("w") as stream:
            subprocess.run(
                ["sh", "-c", script], user=UID, group=UID, extra_groups=[], cwd="/",
                stdout=stream, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip

    assert namespaces.try_in_child(act) == ""
    return output.read_text()


def test_ways_lead_through_closed_folders_to_what_is_needed_only(place: Path) -> None:
    home = place / "home"
    for name in ("python/lib", "private", "cloud/closed/instances/i-1", "cloud/open"):
        (home / name).mkdir(parents=True)
    for name in ("python/lib/os.py", "private/key", "cloud/open/data", "cloud/closed/keys"):
        (home / name).write_text(f"{name}\n")
    (home / "cloud/closed/instances/i-1.log").write_text("log\n")
    # A needed folder may have closed ones below it, on the way to another.
    for folder in (home, home / "cloud/closed", home / "cloud/closed/instances"):
        folder.chmod(0o700)
    instances = home / "cloud/closed/instances"
    needed = [instances / "i-1", instances / "i-1.log", home / "python", home / "cloud"]
    shown = in_namespace(
        place,
        needed,
        f"cd {home} && cat python/lib/os.py cloud/open/data cloud/closed/instances/i-1.log; "
        "ls cloud/closed/instances/i-1; cat private/key; cat cloud/closed/keys; ls .",
    )
    assert shown.splitlines() == [
        "python/lib/os.py", "cloud/open/data", "log",
        "cat: private/key: No such file or directory",
        "cat: cloud/closed/keys: No such file or directory",
        "ls: cannot open directory '.': Permission denied",
    ]  # fmt: skip
    assert (home / "private/key").read_text() == "private/key\n"


def test_a_user_of_the_machine_with_the_same_number_or_name_is_replaced(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, groups = place / "passwd", place / "group"
    users.write_text(
        "root:x:0:0:root:/root:/bin/sh\nshared:x:58113:100::/home/shared:/bin/sh\n"
        "runctl-trainer:x:999:999::/:/bin/sh\nother:x:58112:58113::/:/bin/sh\n"
    )
    groups.write_text("root:x:0:\nvideo:x:44:ann\nrender:x:105:\nshared:x:58113:ann\n")
    monkeypatch.setattr(own_user, "_USERS", users)
    monkeypatch.setattr(own_user, "_GROUPS", groups)
    shown = in_namespace(place, [], f"cat {users} {groups}")
    assert shown.splitlines() == [
        "root:x:0:0:root:/root:/bin/sh", "other:x:58112:58113::/:/bin/sh",
        f"{NAME}:x:58113:58113::/var/lib/runctl/home:/usr/sbin/nologin",
        "root:x:0:", f"video:x:44:ann,{NAME}", f"render:x:105:{NAME}", f"{NAME}:x:58113:",
    ]  # fmt: skip
    assert users.read_text().count(NAME) == 1, "the machine's own is as it was"


def test_the_interpreter_is_found_where_it_is_and_not_by_a_link_that_a_cover_would_hide(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "python-3.12.11/bin").mkdir(parents=True)
    program = place / "python-3.12.11/bin/python3"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (place / "python-3.12").symlink_to("python-3.12.11")
    monkeypatch.setattr(sys, "base_prefix", str(place / "python-3.12"))
    assert base_python() == str(program.resolve())


def test_what_an_instance_removes_of_its_user_is_not_that_of_another_instance(
    place: Path,
) -> None:
    subprocess.run(
        ["ipcmk", "--shmem", "100"], user=UID, group=UID, extra_groups=[],
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    others = list(find_ipc_of(UID))

    def act() -> None:
        isolation.isolate(place, [], has_user=True)
        (place / "removed").write_text(str(remove_ipc_of(UID)))

    try:
        assert namespaces.try_in_child(act) == ""
        assert (place / "removed").read_text() == "0"
        assert list(find_ipc_of(UID)) == others != []
    finally:
        remove_ipc_of(UID)
