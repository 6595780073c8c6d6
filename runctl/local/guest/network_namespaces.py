"""Network namespaces without names: they disappear with their last process, socket and descriptor.

Nothing is created below `/run/netns`, so that nothing remains of a local cloud that was killed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runctl.local.guest import engine, namespaces

Result = TypeVar("Result")

# linux/sched.h
_NEW_HOST_NAME, _NEW_NETWORK = 0x04000000, 0x40000000
_HOSTS = Path("/etc/hosts")
_TOOL = "ip"


def find_tool() -> str | None:
    """Return the path of the program `ip`, None if it is not installed."""
    return shutil.which(_TOOL, path=engine.PATH)


def create() -> int:
    """Create a network namespace and return a descriptor of it, which keeps it alive."""

    def unshare() -> int:
        namespaces.call("unshare", _NEW_NETWORK)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    descriptor = _in_thread(unshare)
    configure(descriptor, "link set lo up")
    return descriptor


def within(descriptor: int, act: Callable[[], Result]) -> Result:
    """Call a function in a namespace, in a thread of its own; sockets keep their namespace."""

    def enter_first() -> Result:
        namespaces.call("setns", descriptor, _NEW_NETWORK)
        return act()

    return _in_thread(enter_first)


def configure(descriptor: int, *commands: str) -> None:
    """Run commands of `ip` in a namespace; raise OSError with what it says if one fails."""
    argv = [find_tool() or _TOOL, "-batch", "-"]
    done = within(
        descriptor,
        lambda: subprocess.run(
            argv, input="\n".join(commands), capture_output=True, text=True, check=False
        ),
    )
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()}")


def enter(descriptor: int, host_name: str) -> None:
    """Move this process, which has no threads yet, into a namespace, where it is called so."""
    namespaces.call("setns", descriptor, _NEW_NETWORK)
    os.close(descriptor)
    namespaces.call("unshare", _NEW_HOST_NAME)
    socket.sethostname(host_name)


def resolve_host_name(root: Path, host_name: str, address: str) -> None:
    """Let the name mean the address, as on EC2, in this process's own mount namespace.

    Libraries such as Gloo listen at the address that the host's name has.
    """
    if not _HOSTS.exists():
        return
    own = root / "etc/hosts"
    own.write_text(f"127.0.0.1 localhost\n{address} {host_name} {host_name.partition('.')[0]}\n")
    namespaces.bind(own, _HOSTS)


def _in_thread(act: Callable[[], Result]) -> Result:
    """Call a function in a new thread, whose namespace ends with it."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as exc:  # noqa: BLE001 - it is raised in the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=run, name="network namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
