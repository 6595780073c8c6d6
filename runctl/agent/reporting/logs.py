"""The log shipper: follows files and puts their lines into log streams, in order."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path

from runctl.agent.ports import LogStreams
from runctl.agent.reporting.display_lines import DisplayLines, events_of
from runctl.agent.reporting.growing_file import KEPT_BYTES, GrowingFile
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.model.errors import RunctlError

INTERVAL = timedelta(milliseconds=500)
# The service's limits: 1,048,576 bytes a batch, 26 of them for each event; 10,000 events.
BATCH_BYTES = 1_048_576
EVENT_OVERHEAD = 26
BATCH_EVENTS = 10_000
# The most that may wait on the disk for an unavailable service: the trainer needs the space.
MAX_BACKLOG_BYTES = 1024 * 1024 * 1024

logger = logging.getLogger(__name__)
Event = tuple[int, str]


class LogFile:
    """One file of a stream: its events in order, and where to continue after a restart."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._lines = DisplayLines(path.name)
        self._skipped = 0
        self._cut_off: list[str] = []

    def resume(self) -> bool:
        """Continue where an agent was killed; return whether it left any lines."""
        numbers = self._file.recall()
        self._file.position = numbers[0] if numbers else 0
        self._lines = DisplayLines(
            self._file.path.name,
            position=self._file.position,
            line_start=numbers[1] if len(numbers) > 1 else None,
        )
        return self._file.backlog() > 0

    def read(self, *, everything: bool = False) -> tuple[list[str], bool]:
        """Return the next events, and whether the file had anything new."""
        content = self._file.read()
        now = time.monotonic()
        events = self._lines.feed(content, now)
        if everything and not content:
            events += self._lines.end(now)
        if self._skipped:
            left_out = (
                f"[runctl left out {self._skipped} bytes, which could not be shipped in time]"
            )
            events = [*self._cut_off, left_out, *events]
            self._skipped, self._cut_off = 0, []
        return events, bool(content)

    def settle(self) -> None:
        """Note that everything that was read has arrived, and free its space on the disk."""
        done, line_start = self._lines.done, self._lines.line_start
        self._file.note(done, *(() if line_start is None else (line_start,)))
        self._file.free(done - KEPT_BYTES)

    def skip(self, most: int) -> None:
        """Skip the oldest waiting bytes if more than `most` wait; a log line says how many."""
        backlog = self._file.backlog()
        if backlog <= most:
            return
        begin = self._file.position + backlog - most // 2
        left_out = begin - self._lines.done
        logger.warning("%d bytes of %s are left out", left_out, self._file.path.name)
        self._skipped += left_out
        self._file.position = begin
        self._file.free(begin)
        self._cut_off += self._lines.skip_to(begin)


def batches(events: list[Event]) -> list[list[Event]]:
    """Divide events into batches within the service's limits."""
    found: list[list[Event]] = []
    size = BATCH_BYTES
    for event in events:
        cost = len(event[1].encode()) + EVENT_OVERHEAD
        if size + cost > BATCH_BYTES or len(found[-1]) >= BATCH_EVENTS:
            found.append([])
            size = 0
        found[-1].append(event)
        size += cost
    return found


class LogShipper:
    """Follows files and ships each to its stream. What is not shipped yet stays in the file.

    `unwritten` gives, by stream, the lines that could not be written to a file. `mask` hides
    secrets in every line; what an earlier agent left in the files of the `held` streams waits until
    it knows them.
    """

    def __init__(
        self,
        log_streams: LogStreams,
        *,
        streams: dict[str, list[Path]],
        unwritten: dict[str, Callable[[], list[str]]] | None = None,
        mask: SecretMask | None = None,
        held: Collection[str] = (),
    ) -> None:
        self._log_streams = log_streams
        self._streams = {
            stream: [LogFile(path) for path in paths] for stream, paths in streams.items()
        }
        self._unwritten = unwritten or {}
        self._mask = mask or SecretMask()
        self._held = held
        self._has_earlier_lines: set[str] = set()
        self._unwritten_lines = 0
        self._last: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="logs", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        for stream, files in self._streams.items():
            for file in files:
                if file.resume() and stream in self._held:
                    self._has_earlier_lines.add(stream)
        self._thread.start()

    def follow(self, stream: str, path: Path) -> None:
        """Ship another file to a stream as well, from the next round on."""
        file = LogFile(path)
        file.resume()
        self._streams = {**self._streams, stream: [*self._streams[stream], file]}

    def stop(self, *, within: timedelta) -> None:
        """Ship what is left, as far as time allows."""
        self._stop.set()
        self._thread.join(timeout=within.total_seconds())

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL.total_seconds()):
            self._ship_all()
        self._ship_all(everything=True)

    def _ship_all(self, *, everything: bool = False) -> None:
        for stream, files in self._streams.items():
            if stream in self._has_earlier_lines and not self._mask.is_ready:
                continue
            for file in files:
                self._ship(stream, file, everything=everything)
        for stream, take in self._unwritten.items():
            for line in take():
                self._unwritten_lines += 1
                text = line.encode(errors="backslashreplace").decode()
                self._put_all(stream, events_of(text, f"unwritten:{self._unwritten_lines}"))

    def _ship(self, stream: str, file: LogFile, *, everything: bool) -> None:
        has_more = True
        while has_more:
            events, has_more = file.read(everything=everything)
            self._put_all(stream, events)
            file.settle()
            self._bound()

    def _put_all(self, stream: str, messages: list[str]) -> None:
        now = max(int(time.time() * 1000), self._last.get(stream, 0))
        self._last[stream] = now
        masked = map(self._mask.apply, messages)
        for batch in batches([(now, message) for message in masked]):
            self._put(stream, batch)

    def _bound(self) -> None:
        for files in self._streams.values():
            for file in files:
                file.skip(MAX_BACKLOG_BYTES)

    def _put(self, stream: str, batch: list[Event]) -> None:
        """Put one batch; retry until that succeeds or the agent ends."""
        wait = 0.5
        while True:
            try:
                self._log_streams.put(stream, batch)
            except RunctlError as exc:
                # Throttling, a stream that was deleted, permissions that have not propagated.
                logger.debug("lines could not be put into %s: %s", stream, exc)
            else:
                return
            if self._stop.is_set() and wait > 2:
                return
            self._bound()
            time.sleep(wait)
            wait = min(wait * 2, 10)
