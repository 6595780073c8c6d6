"""The log of a run from its beginning, read once or until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runctl.model.run import Attempt
from runctl.report.follower import Source
from runctl.report.log_tail import UNFINISHED_LINE_TIME, LogEntry, LogTail

# Reads without a new line after the end: the last lines reach the log shortly after it is known.
_QUIET_READS = 2


@dataclass
class RunLog:
    """Reads the log of a run, of all its attempts or of one, of all their nodes or of one rank.

    With `shows_prompts`, a line that stops growing, such as a prompt, is not waited for.
    """

    source: Source
    tail: LogTail
    attempt: int | None = None
    rank: int | None = None
    shows_prompts: bool = False
    sleep: Callable[[float], None] = time.sleep

    def read(self) -> Iterator[LogEntry]:
        """Yield what the log contains now."""
        yield from self.tail.read(self._attempts()[0])
        yield from self.tail.unfinished()

    def read_new(self) -> Iterator[LogEntry]:
        """Yield the lines that were added since the last read."""
        yield from self.tail.read(self._attempts()[0])
        if self.shows_prompts:
            yield from self.tail.unfinished(after=UNFINISHED_LINE_TIME)

    def follow(self) -> Iterator[LogEntry]:
        """Yield lines until the run, or the attempt, has ended."""
        quiet = 0
        while True:
            attempts, has_ended = self._attempts()
            lines = 0
            for entry in self.tail.read(attempts):
                yield entry
                lines += 1
            if self.shows_prompts:
                yield from self.tail.unfinished(after=UNFINISHED_LINE_TIME)
            quiet = 0 if lines else quiet + 1
            if has_ended and quiet >= _QUIET_READS:
                yield from self.tail.unfinished()
                return
            self.sleep(self.source.pause)

    def _attempts(self) -> tuple[dict[int, list[int]], bool]:
        """Return the ranks to read of each attempt, and whether nothing more will be logged."""
        ledger, run_id = self.source.ledger, self.tail.run_id
        run = ledger.find_run(run_id)
        chosen = [
            attempt for attempt in ledger.attempts(run_id) if self.attempt in {None, attempt.number}
        ]
        has_ended = run is None or run.ended is not None
        if self.attempt is not None:
            has_ended |= any(attempt.ended is not None for attempt in chosen)
        return {attempt.number: self._ranks(attempt) for attempt in chosen}, has_ended

    def _ranks(self, attempt: Attempt) -> list[int]:
        ranks = [node.rank for node in attempt.nodes] or [0]
        return [rank for rank in ranks if self.rank in {None, rank}]
