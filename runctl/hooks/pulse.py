"""The pulse of a rank: by it runctl sees whether the rank computes, waits for others or hangs."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from pathlib import Path

# The agreements of all ranks that were entered and left, the seconds of computing so far, and when
# that changed last, in seconds of the system's monotonic clock.
_LAYOUT = struct.Struct("<QQdd")


class Pulse:
    """Counts the agreements of a rank in a file that is mapped into memory.

    Without runctl, or if the file cannot be written, it only counts.
    """

    def __init__(self, folder: str, rank: str) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(_LAYOUT.size)
        self._entered = self._left = 0
        self._busy = 0.0
        self._since: float | None = None  # when the last agreement was left
        self._computed: float | None = None
        if folder:
            with contextlib.suppress(OSError, ValueError):
                self._memory = _map(Path(folder) / f"rank-{int(rank or 0)}")

    def begin(self) -> None:
        """Note that the rank begins an agreement, and from now on waits for others."""
        now = time.monotonic()
        if self._since is not None:
            self._busy += (now if self._computed is None else self._computed) - self._since
        self._computed = None
        self._entered += 1
        self._write(now)

    def end(self) -> None:
        """Note that all have agreed."""
        self._since = now = time.monotonic()
        self._left += 1
        self._write(now)

    def note_computed(self) -> None:
        """Note that the rank has computed its part of the step; what follows is waiting."""
        self._computed = time.monotonic()

    def _write(self, now: float) -> None:
        _LAYOUT.pack_into(self._memory, 0, self._entered, self._left, self._busy, now)


def _map(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, _LAYOUT.size)
        return mmap.mmap(descriptor, _LAYOUT.size)
    finally:
        os.close(descriptor)


# That of this process.
pulse = Pulse(os.environ.get("RUNCTL_PULSE_DIR", ""), os.environ.get("LOCAL_RANK", ""))
