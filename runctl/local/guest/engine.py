"""The Docker engine of an instance, or of a cloud's builds: a real `dockerd` with its own paths.

Its mounts are in a mount namespace, its processes below a process that ends them all, and its
control groups below one that is removed when it has ended, so that nothing of it is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from runctl.local.guest import namespaces

# As on EC2. Both folders are the instance's own, if it can have an engine (`isolation`).
DATA = Path("/var/lib/docker")
RUN = Path("/run")
HOST = f"unix://{RUN}/docker.sock"
# Where there is no engine: a name without a socket, so that nothing reaches the developer's Docker.
NO_HOST = f"unix://{RUN}/runctl-no-engine.sock"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN_IN_RUN = {"containerd", "docker", "docker.pid", "docker.sock"}
_GROUPS = Path("/sys/fs/cgroup")
_REMOVAL_SECONDS = 10.0
_UNIT = """[Unit]
Description=Docker Application Container Engine
[Service]
Type=notify
ExecStart={command}
KillMode=process
TimeoutStopSec=20
Restart=always
RestartSec=2
"""


def command(*, host: str, data: Path, control_group: str, settings: Path) -> list[str]:
    """Return the command line of an engine that changes no firewall and no routing."""
    return [
        # It must not outlive the process that ends everything.
        *("setpriv", "--pdeathsig", "KILL", "dockerd", "--config-file", str(settings)),
        *("--host", host, "--data-root", str(data)),
        *("--exec-root", str(RUN / "docker"), "--pidfile", str(RUN / "docker.pid")),
        *("--cgroup-parent", f"/{control_group}", "--exec-opt", "native.cgroupdriver=cgroupfs"),
        *("--storage-driver", "overlay2", "--bridge=none", "--iptables=false"),
        *("--ip6tables=false", "--ip-forward=false", "--userland-proxy=false"),
    ]


def cover_run(stage: Path) -> None:
    """Give this mount namespace a /run of its own, without the machine's engine.

    It shows everything else that is there now. `stage` is an empty folder.
    """
    namespaces.mount_tmpfs(stage, "mode=755")
    for entry in os.scandir(RUN):
        if entry.name not in _OWN_IN_RUN:
            namespaces.show(entry, stage / entry.name)
    namespaces.move(stage, RUN)


def install(root: Path, control_group: str) -> None:
    """Write the unit docker.service of an instance, and its empty settings."""
    settings = root / "etc/docker/daemon.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("{}\n")
    words = command(host=HOST, data=DATA, control_group=control_group, settings=settings)
    (root / "etc/systemd/system/docker.service").write_text(_UNIT.format(command=" ".join(words)))


def remove_control_groups(name: str) -> None:
    """End whatever is left in an engine's control groups, and remove them."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while groups := [group for group in _control_groups(name) if group.is_dir()]:
        for pid in {pid for group in groups for pid in _processes(group)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # a process in it has yet to end
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _control_groups(name: str) -> Iterator[Path]:
    """Yield where a control group may be: once, or below each controller of version 1."""
    if _GROUPS.is_dir():
        yield _GROUPS / name
        yield from (folder / name for folder in _GROUPS.iterdir() if not folder.is_symlink())


def _processes(group: Path) -> Iterator[int]:
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            yield from map(int, Path(folder, "cgroup.procs").read_text().split())


def main() -> None:
    """Run an engine in the folder that the first argument names, until standard input ends."""
    folder, control_group = Path(sys.argv[1]), sys.argv[2]
    for name in ("data", "stage"):
        (folder / name).mkdir(exist_ok=True)
    settings = folder / "settings.json"
    settings.write_text(json.dumps({}))
    cover_run(folder / "stage")
    words = command(
        host=f"unix://{folder}/s",
        data=folder / "data",
        control_group=control_group,
        settings=settings,
    )
    engine = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    while engine.poll() is None and os.read(0, 4096):
        pass
    engine.kill()
    remove_control_groups(control_group)
    # This is the first process of its namespace: the kernel ends all others with it.


if __name__ == "__main__":
    main()
