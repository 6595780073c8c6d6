"""The network of this instance as the ranks of a gang use it: its interface and a free port."""

import contextlib
import fcntl
import socket
import struct
import zlib

from runctl.model.node import NodeId

# Below the ports that Linux gives to outgoing connections, which begin at 32768.
FIRST_PORT = 29_500
PORTS = 1_000
_SIOCGIFADDR = 0x8915
_NAME_BYTES = 256
_ADDRESS = slice(20, 24)


def first_port(node: NodeId) -> int:
    """Return the port that an attempt tries first: each has another one than that before it.

    A process that is left of an earlier attempt must not reach the rendezvous of this one.
    """
    return FIRST_PORT + (zlib.crc32(node.run_id.encode()) + node.attempt) % PORTS


def reserve_port(node: NodeId) -> socket.socket:
    """Return a socket that holds the first free port, for as long as it is open.

    Raises OSError if none is free.
    """
    first = first_port(node) - FIRST_PORT
    problem = OSError("no port is free")
    for number in range(PORTS):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # On all addresses: that is where the rendezvous listens.
            holder.bind(("0.0.0.0", FIRST_PORT + (first + number) % PORTS))  # noqa: S104
        except OSError as exc:
            holder.close()
            problem = exc
        else:
            return holder
    raise problem


def interface_of(address: str) -> str:
    """Return the network interface that has an IPv4 address, empty if there is none."""
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack(f"{_NAME_BYTES}s", name.encode())
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[_ADDRESS]) == address:
                    return name
    return ""
