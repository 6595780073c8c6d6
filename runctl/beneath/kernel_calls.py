"""Calls of the kernel for which Python may have no function.

conda, and until 2026 uv, have builds of Python for old systems, made from headers that do not know
these calls. What counts is the system that they run on: it needs Linux 5.3 and glibc 2.27.
"""

import ctypes
import os

# The same on every architecture.
_SEND_SIGNAL, _OPEN = 424, 434
_CLOSE_ON_EXEC = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


def open_process(pid: int) -> int:
    """Return a pidfd, as os.pidfd_open does; raise ProcessLookupError if there is no process."""
    return _checked(_LIBC.syscall(_OPEN, pid, 0), "pidfd_open")


def send_signal(descriptor: int, number: int) -> None:
    """Send a signal to the process of a pidfd; raise ProcessLookupError if it has ended."""
    _checked(_LIBC.syscall(_SEND_SIGNAL, descriptor, number, None, 0), "pidfd_send_signal")


def open_memory(name: str) -> int:
    """Return the descriptor of a new file in memory, as os.memfd_create does."""
    return _checked(_LIBC.memfd_create(os.fsencode(name), _CLOSE_ON_EXEC), "memfd_create")


def _checked(result: int, name: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
