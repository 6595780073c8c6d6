"""The user at the other end of a loopback connection."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_ESTABLISHED = "01"
Address = tuple[str, int]


def is_own(client: Address, server: Address, *, table: Path = Path("/proc/net/tcp")) -> bool:
    """Return whether a connection's other end belongs to a process of this user.

    A connection that its other end has closed counts as foreign: the kernel attributes it to root.
    """
    ends = [_written(client), _written(server)]
    for line in table.read_text().splitlines()[1:]:
        words = line.split()
        if words[1:3] == ends and words[3] == _ESTABLISHED:
            uid, inode = int(words[7]), int(words[9])
            return inode != 0 and uid == os.geteuid()
    return False


def _written(address: Address) -> str:
    """Format an address like the kernel: its bytes as a number in native order, and the port."""
    number = struct.unpack("=I", socket.inet_aton(address[0]))[0]
    return f"{number:08X}:{address[1]:04X}"
