"""The log of a run across its attempts, read as it grows."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from runctl.model.identity import agent_log_stream, build_log_stream, log_streams
from runctl.model.image_build import BuildLines
from runctl.model.log_fragments import Joiner
from runctl.model.node import NodeId
from runctl.model.printable import printable

if TYPE_CHECKING:
    from runctl.aws.logs import LogLine, LogReader

# While following, an unfinished line that stops growing, such as a prompt, is shown after this.
UNFINISHED_LINE_TIME = timedelta(seconds=3)


# The number under which lines of the build of the run's image are listed, before all attempts.
BUILD = 0


@dataclass(frozen=True)
class LogEntry:
    """A line of the log of a node, or of the build of the run's image.

    `is_among_others`: lines of other nodes of the same attempt are read, too.
    """

    attempt: int
    at: datetime
    text: str
    rank: int = 0
    is_among_others: bool = False

    @property
    def plain(self) -> str:
        """The line as a terminal would have shown it in the end, without colours.

        The rank of the node precedes it where there are several.
        """
        # A progress bar rewrites its line, so that only the last text remains.
        text = printable(self.text.rstrip("\r\n").rpartition("\r")[2])
        return f"[{self.rank}] {text}" if self.is_among_others else text

    def as_document(self) -> dict[str, Any]:
        """Return the line as `runctl logs --json` prints it."""
        text = self.text.rstrip("\r\n")
        return {
            "attempt": self.attempt,
            "rank": self.rank,
            "at": self.at.isoformat(),
            "text": text,
        }


@dataclass
class LogTail:
    """Reads the log streams of the nodes of a run's attempts, and remembers its position in each.

    Lines that were too long for one event are joined again. With `has_build`, the output of the
    builds of the run's image precedes them.
    """

    reader: LogReader
    run_id: str
    since: datetime | None = None
    is_agent: bool = False
    has_build: bool = False
    _positions: dict[str, str] = field(default_factory=dict)
    _streams: dict[NodeId, str] = field(default_factory=dict)
    _joiners: dict[NodeId, Joiner[LogLine]] = field(default_factory=dict)
    _builds: dict[str, BuildLines] = field(default_factory=dict)
    _gangs: set[int] = field(default_factory=set)
    _last_line_at: float = 0.0

    def read(self, attempts: Mapping[int, Sequence[int]]) -> Iterator[LogEntry]:
        """Yield the new lines of the nodes with these ranks, by the numbers of their attempts.

        The lines of the nodes of an attempt are in the order of their times.
        """
        if self.has_build:
            yield from self._read_builds()
        for number, ranks in attempts.items():
            self._gangs.update({number} if len(ranks) > 1 else ())
            nodes = [self._entries(NodeId(self.run_id, number, rank)) for rank in ranks]
            yield from heapq.merge(*nodes, key=lambda entry: entry.at)

    def unfinished(self, *, after: timedelta = timedelta(0)) -> Iterator[LogEntry]:
        """Yield unfinished lines if no line has arrived for the duration `after`."""
        if time.monotonic() - self._last_line_at >= after.total_seconds():
            for node, joiner in self._joiners.items():
                for first, text in joiner.take_unfinished():
                    yield self._entry(node, first.at, text)

    def _entries(self, node: NodeId) -> Iterator[LogEntry]:
        for line in self._read(node):
            self._last_line_at = time.monotonic()
            joiner = self._joiners.setdefault(node, Joiner())
            if found := joiner.join(line, line.text):
                first, text = found
                yield self._entry(node, first.at, text)

    def _entry(self, node: NodeId, at: datetime, text: str) -> LogEntry:
        return LogEntry(
            node.attempt, at, text, rank=node.rank, is_among_others=node.attempt in self._gangs
        )

    def _read_builds(self) -> Iterator[LogEntry]:
        for stream in self.reader.streams(f"{build_log_stream(self.run_id)}/"):
            filtered = self._builds.setdefault(stream, BuildLines())
            for line in self._read_stream(stream):
                for text in line.text.splitlines():
                    if filtered.is_output(text):
                        yield LogEntry(BUILD, line.at, text)

    def _read(self, node: NodeId) -> Iterator[LogLine]:
        """Yield the new lines of a node, from the stream that its agent's version writes."""
        known = self._streams.get(node)
        for name in (known,) if known else log_streams(*node):
            stream = agent_log_stream(name) if self.is_agent else name
            yield from self._read_stream(stream)
            if self._positions.get(stream):
                self._streams[node] = name
                return

    def _read_stream(self, stream: str) -> Iterator[LogLine]:
        while True:
            before = self._positions.get(stream, "")
            lines, after = self.reader.read(stream, position=before, since=self.since)
            if after:
                self._positions[stream] = after
            yield from lines
            # An empty page in the middle has a new position; only the end repeats the position.
            if after == before or (not lines and not before):
                return
