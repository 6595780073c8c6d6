"""The machine's own disks: real devices, file systems and mounts, below a root of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.agent.instance import instance_store
from runctl.agent.instance.instance_store import use_instance_store
from runctl.agent.instance.paths import Paths

MIB = 1024 * 1024
ROOT_MIB = 24


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def has_loop_devices() -> bool:
    if os.geteuid() != 0:
        return False
    return subprocess.run(["losetup", "--find"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not has_loop_devices(), reason="needs root and loop devices")


class Machine:
    """A root file system of 24 MiB, and NVMe disks that are loop devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={ROOT_MIB}m", "tmpfs", str(self.root))
        self.paths = Paths(self.root)
        self.devices: list[str] = []

    def add_disk(self, mib: int) -> Path:
        disk = self.folder / f"disk-{len(self.devices)}"
        with disk.open("wb") as stream:
            stream.truncate(mib * MIB)
        device = run("losetup", "--show", "--find", str(disk))
        self.devices.append(device)
        names = self.root / "dev/disk/by-id"
        names.mkdir(parents=True, exist_ok=True)
        serial = f"nvme-Amazon_EC2_NVMe_Instance_Storage_AWS{len(self.devices):017}"
        # udev gives each disk one name with its namespace and one without.
        for name in (serial, f"{serial}_1"):
            (names / name).symlink_to(device)
        return Path(device)

    @property
    def is_on_own_disks(self) -> bool:
        return os.path.ismount(self.paths.state)

    @property
    def source(self) -> str:
        return run("findmnt", "--noheadings", "--output", "SOURCE", str(self.paths.state))

    def close(self) -> None:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        places = [line.split()[4] for line in mounts]
        for place in reversed([place for place in places if place.startswith(f"{self.folder}/")]):
            run("umount", "--lazy", place)
        for device in self.devices:
            run("losetup", "--detach", device)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def has_content(device: Path) -> bool:
    probe = subprocess.run(["blkid", "--probe", str(device)], check=False, capture_output=True)
    return probe.returncode == 0


def test_everything_that_a_run_writes_is_on_the_machines_own_disk(machine: Machine) -> None:
    device = machine.add_disk(96)
    said = use_instance_store(machine.paths)
    assert said.startswith("the run's files are on the instance's own disks (0.1 GiB)")
    machine.paths.make()
    (machine.paths.checkpoint / "weights").write_bytes(bytes(40 * MIB))  # more than the root has
    assert machine.source.startswith(str(device))
    # An agent that was restarted finds its files.
    assert use_instance_store(machine.paths) == ""
    assert (machine.paths.checkpoint / "weights").stat().st_size == 40 * MIB


def test_the_largest_of_several_disks_is_used_where_no_tool_can_stripe_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_store.shutil, "which", lambda _: None)
    small, large = machine.add_disk(48), machine.add_disk(96)
    assert "own disks" in use_instance_store(machine.paths)
    assert machine.source.startswith(str(large))
    assert not has_content(small)


@pytest.mark.parametrize("tool", ["mdadm", "lvcreate"])
def test_several_disks_are_striped_with_the_tool_that_the_image_has(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tool: str
) -> None:
    # This kernel may have neither driver: both tools fail here, and one disk is used in the end.
    asked = tmp_path / "asked"
    for name in ("mdadm", "pvcreate", "vgcreate", "lvcreate"):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {asked}\n[ {name} != mdadm -a {name} != lvcreate ]\n'
        )
        fake.chmod(0o755)
    if tool == "lvcreate":
        (tmp_path / "bin/mdadm").unlink()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    disks = [str(machine.add_disk(48)), str(machine.add_disk(48))]
    together = " ".join(sorted(disks))
    use_instance_store(machine.paths)
    assert machine.is_on_own_disks
    lines = asked.read_text().splitlines()
    if tool == "mdadm":
        assert lines[0] == (
            f"mdadm --create /dev/md/runctl --run --level=0 --raid-devices=2 {together}"
        )
    else:
        assert lines == [
            f"pvcreate --yes -ff {together}",
            f"vgcreate runctl {together}",
            "lvcreate --yes --name state --stripes 2 --extents 100%FREE runctl",
        ]


def test_disks_that_the_image_has_mounted_are_used_where_they_are(machine: Machine) -> None:
    place = machine.root / "opt/dlami/nvme"
    place.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
    unused = machine.add_disk(96)
    assert "own disks" in use_instance_store(machine.paths)
    machine.paths.make()
    (machine.paths.project / "train.py").write_text("pass")
    assert (place / "runctl/project/train.py").read_text() == "pass"
    assert not has_content(unused)


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_disk_that_has_content_is_left_alone(machine: Machine, is_mounted: bool) -> None:
    device = machine.add_disk(64)
    run("mkfs.ext4", "-q", str(device))
    place = machine.root / "theirs"
    place.mkdir()
    run("mount", str(device), str(place))
    (place / "data").write_text("theirs")
    if not is_mounted:
        run("umount", str(place))
    assert use_instance_store(machine.paths) == ""
    assert not machine.is_on_own_disks
    if not is_mounted:
        run("mount", str(device), str(place))
    assert (place / "data").read_text() == "theirs"


def test_a_machine_without_such_disks_says_nothing(machine: Machine) -> None:
    assert use_instance_store(machine.paths) == ""
    assert not machine.is_on_own_disks


def nothing(_machine: Machine, _folder: Path) -> None:
    pass


def use_the_folder(machine: Machine, _folder: Path) -> None:
    machine.paths.state.mkdir(parents=True)
    (machine.paths.state / "checkpoint").mkdir()


def break_mkfs(_machine: Machine, folder: Path) -> None:
    fake = folder / "bin/mkfs.ext4"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'no such device' >&2\nexit 1\n")
    fake.chmod(0o755)


@pytest.mark.parametrize(
    ("mib", "prepare", "why"),
    [
        (8, nothing, "the root volume has more room"),
        (64, use_the_folder, "is in use already"),
        (64, break_mkfs, "mkfs.ext4 failed: no such device"),
    ],
)
def test_whatever_goes_wrong_the_files_stay_on_the_root_volume(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mib: int,
    prepare: Callable[[Machine, Path], None],
    why: str,
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    device = machine.add_disk(mib)
    prepare(machine, tmp_path)
    said = use_instance_store(machine.paths)
    assert said.startswith("the instance's own disks are not used: ")
    assert why in said
    assert not machine.is_on_own_disks
    assert not has_content(device)
    machine.paths.make()
    assert machine.paths.project.is_dir()
