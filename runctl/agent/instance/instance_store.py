"""The machine's own NVMe disks (instance store), for everything that a run writes.

They are faster than the root volume and cost nothing more, but lose their contents when the
instance stops. Nothing depends on them: whatever goes wrong, the state folder stays where it is.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from runctl.agent.instance.paths import Paths

# The names that udev gives to such disks, below /dev/disk/by-id.
DEVICES = "nvme-Amazon_EC2_NVMe_Instance_Storage_*"
# The deep-learning image stripes the disks and mounts them itself, in a service that may still run.
IMAGE_MOUNT = "opt/dlami/nvme"
IMAGE_SERVICE = "dlami-nvme.service"
MOUNT = "mnt/runctl"
NAME = "runctl"
# mkfs on 30 TB with deferred initialization takes seconds; the service of the image, half a minute.
TIMEOUT_SECONDS = 120
NO_SIGNATURE = 2  # blkid's exit status for a device without a known content


class _UnusableError(Exception):
    """These disks cannot be used, for the reason in the message."""


def use_instance_store(paths: Paths) -> str:
    """Move the state folder to the machine's own disks if they have more room.

    Call it before anything is written to the folder, and only on a machine that was launched for
    the run: the disks are formatted. Returns one line for the log, empty if there are no such disks
    or the folder is already on them.
    """
    try:
        return _use(paths)
    except (_UnusableError, OSError, subprocess.SubprocessError) as exc:
        return f"the instance's own disks are not used: {exc}"


def _use(paths: Paths) -> str:
    if os.path.ismount(paths.state):
        return ""
    place = _mounted_by_image(paths.root)
    devices = [] if place else list(_free_devices(paths.root))
    if not place and not devices:
        return ""
    paths.state.mkdir(parents=True, exist_ok=True)
    if any(paths.state.iterdir()):
        raise _UnusableError(f"{paths.state} is in use already")
    offered = _room(place) if place else sum(map(_size, devices))
    if offered <= _room(paths.state):
        raise _UnusableError("the root volume has more room")
    place = place or _mount(devices, paths)
    folder = place / NAME
    folder.mkdir(mode=0o755, exist_ok=True)
    _run("mount", "--bind", str(folder), str(paths.state))
    return f"the run's files are on the instance's own disks ({_room(folder) / 2**30:,.1f} GiB)"


def _mounted_by_image(root: Path) -> Path | None:
    """Return where the image has mounted the disks, if it does that."""
    if any((root / where / IMAGE_SERVICE).exists() for where in _UNIT_FOLDERS):
        # Waits while the service is starting, and does nothing once it has run.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                ["systemctl", "start", IMAGE_SERVICE],
                check=False,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
            )
    place = root / IMAGE_MOUNT
    return place if os.path.ismount(place) else None


_UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


def _free_devices(root: Path) -> Iterator[Path]:
    """Yield the disks that nothing uses, each once; udev gives them several names."""
    found = {path.resolve() for path in (root / "dev/disk/by-id").glob(DEVICES)}
    mounted = Path("/proc/self/mountinfo").read_text()
    for device in sorted(found):
        block = Path("/sys/class/block", device.name)
        if not block.is_dir() or (block / "partition").exists():
            continue
        has_parts = any((part / "partition").exists() for part in block.iterdir())
        is_held = any((block / "holders").iterdir())
        is_mounted = f" {(block / 'dev').read_text().strip()} " in mounted
        if not (has_parts or is_held or is_mounted or _has_content(device)):
            yield device


def _has_content(device: Path) -> bool:
    """Whether a disk has a file system or anything else that is known."""
    probe = subprocess.run(
        ["blkid", "--probe", str(device)], check=False, capture_output=True, timeout=TIMEOUT_SECONDS
    )
    return probe.returncode != NO_SIGNATURE


def _mount(devices: Sequence[Path], paths: Paths) -> Path:
    """Make one file system of the disks, and mount it."""
    device = _stripe(devices)
    # Blocks are initialized later, and not trimmed: both take minutes on large disks.
    deferred = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    _run("mkfs.ext4", "-q", "-F", "-m", "0", "-L", NAME, "-E", deferred, str(device))
    place = paths.root / MOUNT
    place.mkdir(parents=True, exist_ok=True)
    _run("mount", "-o", "noatime", str(device), str(place))
    return place


def _stripe(devices: Sequence[Path]) -> Path:
    """Return one device that consists of all disks; the largest disk if no tool can do that."""
    names = [str(device) for device in devices]
    if len(names) > 1:
        with contextlib.suppress(_UnusableError, OSError, subprocess.SubprocessError):
            _require("mdadm")
            array = f"/dev/md/{NAME}"
            count = f"--raid-devices={len(names)}"
            _run("mdadm", "--create", array, "--run", "--level=0", count, *names)
            return Path(array)
        with contextlib.suppress(_UnusableError, OSError, subprocess.SubprocessError):
            _require("lvcreate")
            _run("pvcreate", "--yes", "-ff", *names)
            _run("vgcreate", NAME, *names)
            stripes = ("--stripes", str(len(names)), "--extents", "100%FREE")
            _run("lvcreate", "--yes", "--name", "state", *stripes, NAME)
            return Path(f"/dev/{NAME}/state")
    return max(devices, key=_size)


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise _UnusableError(f"{program} is not installed")


def _run(*command: str) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise _UnusableError(f"{command[0]} failed: {said[-1] if said else done.returncode}")


def _size(device: Path) -> int:
    # In sectors of 512 bytes, whatever the disk's own are.
    return int(Path("/sys/class/block", device.name, "size").read_text()) * 512


def _room(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
