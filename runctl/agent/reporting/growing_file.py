"""A file that grows while it is read; the space of what was read can be freed."""

import contextlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from runctl.agent.instance.disk import free_beginning
from runctl.beneath.paths import open_file

READ_BYTES = 512 * 1024
# Shipped bytes are freed on the disk in chunks of this size; the end stays, for last words.
FREED_BYTES = 16 * 1024 * 1024
KEPT_BYTES = 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass
class GrowingFile:
    """Reads a growing file from its beginning, at most half a megabyte at a time."""

    path: Path
    position: int = 0
    _freed: int = 0
    _can_free: bool = True
    _noted: str = field(default="0", init=False)

    def read(self) -> bytes:
        """Return what comes next, empty when there is nothing for now."""
        try:
            descriptor = open_file(self.path)  # a trainer may have replaced it
        except OSError:
            return b""
        try:
            content = os.pread(descriptor, READ_BYTES, self.position)
        finally:
            os.close(descriptor)
        self.position += len(content)
        return content

    def recall(self) -> list[int]:
        """Return the numbers that were noted last, before an agent was killed."""
        try:
            return [int(word) for word in self._mark.read_text().split()]
        except (OSError, ValueError):
            return []

    def note(self, *numbers: int) -> None:
        """Note numbers for an agent that is started again."""
        text = " ".join(str(number) for number in numbers)
        if text == self._noted:
            return
        temporary = self._mark.with_suffix(".new")
        # On a full disk the older mark stays: lines that are shipped twice are better than no log.
        with contextlib.suppress(OSError):
            temporary.write_text(text)
            temporary.replace(self._mark)
            self._noted = text

    def free(self, until: int) -> None:
        """Give back the disk space up to an offset, so that no trainer's output fills the disk.

        The file keeps its length, and the offset of everything in it.
        """
        if self._can_free and until - self._freed >= FREED_BYTES:
            self._can_free = free_beginning(self.path, until)
            self._freed = until

    def backlog(self) -> int:
        """Return how many bytes wait to be read."""
        try:
            return max(0, self.path.lstat().st_size - self.position)
        except OSError:
            return 0

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.shipped")


def read_end(path: Path, most: int) -> bytes:
    """Return the last `most` bytes of a file, whose beginning may have been freed."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - most))
        return stream.read()
