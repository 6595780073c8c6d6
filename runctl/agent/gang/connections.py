"""The connections of processes to a rendezvous, as the kernel shows them."""

import contextlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from runctl.agent.instance.open_files import PROC

ESTABLISHED = "01"


def connected(pids: Iterable[int], address: str, port: int) -> bool:
    """Whether any of the processes has a connection to a port of an address, or to its own host's.

    The rendezvous is served by a process that connects to itself, perhaps by the loopback address.
    """
    known: dict[str, frozenset[str]] = {}
    for pid in pids:
        sockets = _sockets(pid)
        if not sockets:
            continue
        network = _network(pid)
        if network not in known:
            known[network] = _sockets_to(PROC / str(pid) / "net", address, port)
        if sockets & known[network]:
            return True
    return False


def _sockets(pid: int) -> frozenset[str]:
    """Return the inodes of the sockets that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return frozenset(found)


def _network(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str((PROC / str(pid) / "ns/net").readlink())
    return ""


def _sockets_to(folder: Path, address: str, port: int) -> frozenset[str]:
    """Return the inodes of connections to a port of an address in a network."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (folder / table).read_text().splitlines()[1:]:
                fields = line.split()
                if (
                    len(fields) > 9
                    and fields[3] == ESTABLISHED
                    and _leads_to(fields[2], address, port)
                ):
                    found.add(fields[9])
    return frozenset(found)


def _leads_to(remote: str, address: str, port: int) -> bool:
    number, _, remote_port = remote.partition(":")
    if int(remote_port, 16) != port:
        return False
    found = _parse(number)
    return found.is_loopback or str(found) == address


def _parse(number: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address of the table, whose words have the machine's byte order."""
    words = [bytes.fromhex(number[at : at + 8])[::-1] for at in range(0, len(number), 8)]
    parsed = ipaddress.ip_address(b"".join(words))
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return parsed if mapped is None else mapped
