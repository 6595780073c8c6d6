"""What this machine permits the local cloud, each tried in a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from runctl.agent.instance import as_user
from runctl.local.guest import engine, isolation, namespaces, network_namespaces, own_user

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


def why_same_user(scratch: Path, python: str, shares_paths: str) -> str:
    """Return why programs cannot run as a user of their own; empty if they can.

    `python` is the interpreter that instances have, and `shares_paths` is what why_shared_paths
    returned.
    """
    if os.geteuid() != 0:
        return "only root can start programs of another user"
    if shares_paths:
        return f"it needs mounts ({shares_paths})"
    root = Path(tempfile.mkdtemp(dir=scratch)).resolve()
    root.chmod(0o755)
    prefix = Path(python).resolve().parents[1]

    def try_out() -> None:
        os.umask(0o022)
        isolation.isolate(root, [prefix], has_user=True)
        as_user.confine()
        _try_python(python, root)

    try:
        return namespaces.try_in_child(try_out)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _try_python(python: str, root: Path) -> None:
    """Let the user import something and look into the root; raise OSError if it may not."""
    program = "import json, os, sys; os.listdir(sys.argv[1])"
    done = subprocess.run(
        [python, "-I", "-S", "-c", program, str(root)],
        user=own_user.UID,
        group=own_user.UID,
        extra_groups=[],
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise OSError(f"{python} fails for other users: {last}")


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
