"""TCP ports of this machine: which are in use, by whom, and which one a server gets."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from runctl.agent.instance.open_files import PROC
from runctl.agent.instance.processes import all_pids, descendants
from runctl.model.errors import RequestError

# Set where machines share one network, as on the local cloud: each server gets a free port there.
FREE_PORTS = "RUNCTL_FREE_PORTS"
_LISTENING = "0A"


def choose_port(wanted: int) -> int:
    """Return the port that a server is to listen on; RequestError if it is in use."""
    if os.environ.get(FREE_PORTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    if not _is_free(wanted):
        raise RequestError(
            f"serve.port: port {wanted} of the instance is in use{_by_whom(wanted)}; choose "
            "another one with --port"
        )
    return wanted


def ports_of_descendants() -> set[int]:
    """Return the ports that programs of this agent listen on."""
    family = set(descendants(os.getpid()))
    return {port for port, inode in _listeners() if _owner(inode, family) is not None}


def _is_free(port: int) -> bool:
    for address in ("0.0.0.0", "127.0.0.1"):  # noqa: S104 - it is bound for an instant only
        with socket.socket() as probe:
            # Connections of an earlier server that are not forgotten yet do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def _by_whom(port: int) -> str:
    for listened, inode in _listeners():
        if listened == port and (pid := _owner(inode)) is not None:
            with contextlib.suppress(OSError):
                name = (PROC / str(pid) / "comm").read_text().strip()
                return f" by process {pid} ({name})"
    return ""


def _listeners() -> Iterator[tuple[int, str]]:
    """Yield port and inode of every listening socket."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _owner(inode: str, among: set[int] | None = None) -> int | None:
    wanted = f"socket:[{inode}]"
    for pid in all_pids() if among is None else among:
        with contextlib.suppress(OSError):
            for descriptor in (PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(Path(descriptor).readlink()) == wanted:
                        return pid
    return None
