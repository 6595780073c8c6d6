"""The activity of a server: when it last had a connection that was not a probe's."""

import contextlib
import time

from runctl.agent.instance.open_files import PROC

READ_EVERY = 2.0
# The kernel shows a closed connection for a minute; until then a probe's has to be known.
KEPT_SECONDS = 120.0
_LISTENING = "0A"


class Activity:
    """Reads the connections of a port from the kernel's tables.

    Connections that have just been closed count, so that short ones between two readings are seen.
    """

    def __init__(self) -> None:
        self._probes: dict[int, float] = {}
        self._active_at = time.monotonic()
        self._read_at = float("-inf")

    def note_probe(self, port: int) -> None:
        """Note the local port of a probe's connection."""
        now = time.monotonic()
        self._probes = {
            known: at for known, at in [*self._probes.items()] if now - at < KEPT_SECONDS
        }
        self._probes[port] = now

    def renew(self) -> None:
        """Count the time from now on."""
        self._active_at = time.monotonic()

    def idle_seconds(self, port: int) -> float:
        """Return how long the server on a port has had no connection."""
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY:
            self._read_at = now
            if self._is_active(port):
                self._active_at = now
        return now - self._active_at

    def _is_active(self, port: int) -> bool:
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                    fields = line.split()
                    ends = [int(fields[at].rpartition(":")[2], 16) for at in (1, 2)]
                    if fields[3] == _LISTENING or port not in ends:
                        continue
                    other = ends[1] if ends[0] == port else ends[0]
                    if other not in self._probes:
                        return True
        return False
