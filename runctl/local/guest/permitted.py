"""What this machine permits the local cloud, each tried in a child process."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from runctl.local.guest import engine, isolation, namespaces, network_namespaces

_PROGRAMS = ("dockerd", "docker")


def why_no_disks() -> str:
    """Return why instances cannot have disks of a given size; empty if they can."""
    return namespaces.try_in_child(lambda: namespaces.enter(is_shared=True))


def why_shared_paths(scratch: Path) -> str:
    """Return why instances cannot have their own paths; empty if they can."""
    root = Path(tempfile.mkdtemp(dir=scratch)).resolve()
    try:
        return namespaces.try_in_child(lambda: isolation.isolate(root, [root]))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def why_shared_network(shares_paths: str) -> str:
    """Return why instances cannot have networks of their own; empty if they can.

    `shares_paths` is what why_shared_paths returned.
    """
    if os.geteuid() != 0:
        return "only root can create them"
    if shares_paths:
        return f"they need mounts ({shares_paths})"
    if network_namespaces.find_tool() is None:
        return "ip not found; on Debian and Ubuntu: apt-get install iproute2"
    return namespaces.try_in_child(_try_network)


def _try_network() -> None:
    one, other = network_namespaces.create(), network_namespaces.create()
    network_namespaces.configure(
        one,
        "link add br0 type bridge",
        f"link add port type veth peer name eth0 netns /proc/{os.getpid()}/fd/{other}",
    )


def why_no_engine(shares_paths: str) -> str:
    """Return why instances cannot have a Docker engine; empty if they can.

    `shares_paths` is what why_shared_paths returned.
    """
    if os.geteuid() != 0:
        return "only root can run one"
    if shares_paths:
        return f"it needs mounts ({shares_paths})"
    if missing := [name for name in _PROGRAMS if not shutil.which(name, path=engine.PATH)]:
        return f"{' and '.join(missing)} not found; on Debian and Ubuntu: apt-get install docker.io"
    return ""
