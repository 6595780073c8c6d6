"""Files of JSON lines that grow: metrics, and the helper's saves."""

import re
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from runctl.agent.reporting.growing_file import GrowingFile

MAX_LINE_BYTES = 250_000
# A line without an end is taken after this.
UNFINISHED_LINE_TIME = timedelta(seconds=5)
LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass
class Follower:
    """Reads a growing file line by line, from its beginning."""

    path: Path
    _file: GrowingFile = field(init=False)
    _rest: bytes = field(default=b"", init=False)
    _rest_since: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._file = GrowingFile(self.path)

    def read(self, *, everything: bool = False) -> list[str]:
        """Return the next lines, at most about half a megabyte; the unfinished last one waits."""
        content = self._file.read()
        now = time.monotonic()
        if content:
            self._rest_since = now
        *lines, self._rest = LINE_END.split(self._rest + content)
        waited = now - self._rest_since >= UNFINISHED_LINE_TIME.total_seconds()
        too_long = len(self._rest) >= MAX_LINE_BYTES
        if self._rest and (too_long or (not content and (everything or waited))):
            lines.append(self._rest)
            self._rest = b""
        return [line.decode("utf-8", errors="replace") for line in lines]
