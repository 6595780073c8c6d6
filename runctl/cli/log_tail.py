"""What the trainer said, across the attempts of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.model.identity import log_stream
from runctl.model.run import Attempt

if TYPE_CHECKING:
    from runctl.aws.logs import LogLine, LogReader

# Everything that moves a cursor or rings a bell; colours stay out too, since text gets cut.
_ESCAPES = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)|[\x00-\x08\x0b-\x1f\x7f]"
)


def plain(text: str) -> str:
    """Return a line as it would have looked, without what steers a terminal."""
    # A progress bar rewrites its line: what was written last is what stood there.
    shown = text.rstrip("\r\n").rpartition("\r")[2]
    return _ESCAPES.sub("", shown)


@dataclass
class LogTail:
    """Reads the streams of a run's attempts one after the other, remembering where it was."""

    reader: LogReader
    run_id: str
    since: datetime | None = None
    is_agent: bool = False
    _positions: dict[int, str] = field(default_factory=dict)

    def read(self, attempts: Sequence[Attempt]) -> Iterator[tuple[int, LogLine]]:
        """Yield what is new, each line with the number of its attempt."""
        for attempt in attempts:
            stream = log_stream(self.run_id, attempt.number)
            if self.is_agent:
                stream += "-agent"
            yield from ((attempt.number, line) for line in self._read(attempt.number, stream))

    def _read(self, number: int, stream: str) -> Iterator[LogLine]:
        while True:
            before = self._positions.get(number, "")
            lines, after = self.reader.read(stream, position=before, since=self.since)
            if after:
                self._positions[number] = after
            yield from lines
            # An empty page in the middle has another position; only the end has the same.
            if after == before or (not lines and not before):
                return
