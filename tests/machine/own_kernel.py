"""A machine with a kernel and memory of its own: systemd on User-mode Linux.

A system that still has the controllers of version 1 lends a machine no memory controller of version
2, so systemd in it sees no process that the kernel kills for lack of memory. User-mode Linux is a
kernel that runs as a process: it needs neither KVM nor a disk, and no network reaches it. It cannot
load the metadata fence, for which Debian's configuration has no packet filters. `whole_registers.c`
lets it run on processors that are newer than it.

The machine boots the root in build/machine, with the units of bootstrap.sh, only as far as
`runctl-agent.service`, whose program is `guest_agent`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.machine.booting import BASE

PROGRAM = "linux.uml"
COMPILER = "cc"
PROJECT = Path(__file__).parents[2]
LIMIT_SECONDS = 480
# What only takes time in a machine without devices.
_MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-kernel.socket",
    "systemd-udevd-control.socket", "systemd-udev-load-credentials.service",
    "systemd-hwdb-update.service", "systemd-modules-load.service", "systemd-binfmt.service",
    "systemd-journal-catalog-update.service", "ldconfig.service", "kmod-static-nodes.service",
    "modprobe@.service", "systemd-firstboot.service", "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount", "dev-mqueue.mount",
)  # fmt: skip
# The functions of bootstrap.sh, without what calls them.
_FUNCTIONS = "sed '/^gave_up=/,$d' /opt/runctl/bootstrap.sh"
_LAUNCHER = f"""#!/bin/bash
echo started >>/var/lib/runctl/starts
. <({_FUNCTIONS})
make_user
PYTHONPATH=/opt/runctl/agent exec /usr/bin/python3 -P -S -m tests.machine.guest_agent \\
    /var/lib/runctl/result.json "$user"
"""
# In the mount namespace of this script, and in its namespace of processes, which ends with it.
_BOOT = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" &&
cd "$2" && LD_PRELOAD=$5 exec "$3" "mem=$4" root=/dev/root rootfstype=hostfs \
    "rootflags=$2/root" rw quiet panic=-1 con0=null,fd:1 con=null \
    systemd.unit=runctl-agent.service systemd.show_status=0
"""


def boot(folder: Path, *, memory: str) -> dict[str, Any]:
    """Boot a machine in an empty folder, wait until it is off, and return what its agent saw."""
    upper = folder / "upper"
    for path in (upper / "var/log/journal", folder / "work", folder / "root"):
        path.mkdir(parents=True)
    _fill(upper)
    registers = folder / "whole_registers.so"
    source = Path(__file__).with_name("whole_registers.c")
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", registers, source], check=True)
    ended = subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", _BOOT, "-", BASE, folder, shutil.which(PROGRAM) or PROGRAM, memory),
            registers,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=LIMIT_SECONDS,
    )
    try:
        found: dict[str, Any] = json.loads((upper / "var/lib/runctl/result.json").read_text())
    except OSError as exc:
        lines = "\n".join(journal(folder)[-50:])
        raise AssertionError(f"the agent left no result\n{ended.stdout}\n{lines}") from exc
    found["starts"] = (upper / "var/lib/runctl/starts").read_text().split()
    return found


def journal(folder: Path) -> list[str]:
    """Return the lines of the journal of a machine that is off."""
    words = ("journalctl", "--directory", folder / "upper/var/log/journal", "--no-pager", "--quiet")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _fill(upper: Path) -> None:
    """Write what bootstrap.sh leaves on a machine."""
    units, program = upper / "etc/systemd/system", upper / "opt/runctl/bin/runctl-agent"
    for path in (units, program.parent, upper / "var/lib/runctl", upper / "etc/runctl"):
        path.mkdir(parents=True)
    for name in _MASKED:
        (units / name).symlink_to("/dev/null")
    script = shutil.copy(PROJECT / "instance_scripts/bootstrap.sh", upper / "opt/runctl")
    (upper / "etc/runctl/agent.env").touch()
    program.write_text(_LAUNCHER)
    program.chmod(0o755)
    for name in ("runctl", "tests/machine"):
        shutil.copytree(
            PROJECT / name,
            upper / "opt/runctl/agent" / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy(PROJECT / "tests/agent_settings.py", upper / "opt/runctl/agent/tests")
    write = f". <(sed '/^gave_up=/,$d' '{script}'); units=$1; write_agent_units"
    subprocess.run(["bash", "-c", write, "-", str(units)], check=True)
