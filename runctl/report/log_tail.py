"""The log of a run across its attempts, read as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runctl.model.identity import log_stream
from runctl.model.log_pieces import Joiner
from runctl.model.printable import printable
from runctl.model.run import Attempt

if TYPE_CHECKING:
    from runctl.aws.logs import LogLine, LogReader

# While following, an unfinished line that stops growing, such as a prompt, is shown after this.
UNFINISHED_LINE_TIME = timedelta(seconds=3)


def plain(text: str) -> str:
    """Return a line as a terminal would have shown it in the end, without colours."""
    # A progress bar rewrites its line, so that only the last text remains.
    return printable(text.rstrip("\r\n").rpartition("\r")[2])


@dataclass
class LogTail:
    """Reads the log streams of a run's attempts in turn, and remembers its position in each.

    Lines that were too long for one event are joined again.
    """

    reader: LogReader
    run_id: str
    since: datetime | None = None
    is_agent: bool = False
    _positions: dict[int, str] = field(default_factory=dict)
    _joiners: dict[int, Joiner[LogLine]] = field(default_factory=dict)
    _heard: float = 0.0

    def read(self, attempts: Sequence[Attempt]) -> Iterator[tuple[int, LogLine]]:
        """Yield new lines, each with the number of its attempt."""
        for attempt in attempts:
            stream = log_stream(self.run_id, attempt.number)
            if self.is_agent:
                stream += "-agent"
            for line in self._read(attempt.number, stream):
                self._heard = time.monotonic()
                joiner = self._joiners.setdefault(attempt.number, Joiner())
                if found := joiner.join(line, line.text):
                    began, text = found
                    yield attempt.number, replace(began, text=text)

    def unfinished(self, *, after: timedelta = timedelta(0)) -> Iterator[tuple[int, LogLine]]:
        """Yield unfinished lines if no line has arrived for the duration `after`."""
        if time.monotonic() - self._heard >= after.total_seconds():
            for number, joiner in self._joiners.items():
                for began, text in joiner.take_unfinished():
                    yield number, replace(began, text=text)

    def _read(self, number: int, stream: str) -> Iterator[LogLine]:
        while True:
            before = self._positions.get(number, "")
            lines, after = self.reader.read(stream, position=before, since=self.since)
            if after:
                self._positions[number] = after
            yield from lines
            # An empty page in the middle has a new position; only the end repeats the position.
            if after == before or (not lines and not before):
                return
