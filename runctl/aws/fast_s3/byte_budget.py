"""The budget for parts that are held in memory as a whole."""

import contextlib
import threading
from collections.abc import Iterator

# Four large parts; small ones keep all threads busy.
ROOM_BYTES = 32 * 1024 * 1024


class ByteBudget:
    """Bytes that threads reserve, and wait for if too few are left."""

    def __init__(self, size_bytes: int = ROOM_BYTES) -> None:
        self._size = self._left = size_bytes
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Reserve bytes for the duration of the block, at most the whole budget."""
        needed = min(size_bytes, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= needed)
            self._left -= needed
        try:
            yield
        finally:
            with self._changed:
                self._left += needed
                self._changed.notify_all()
