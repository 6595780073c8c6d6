"""Shipping logs: files are followed and their lines put into CloudWatch Logs, in order."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent.disk import free_beginning
from runctl.aws.errors import code_of

INTERVAL = timedelta(milliseconds=500)
# The service's limits: 1,048,576 bytes a batch, 26 of them for each event; 10,000 events.
BATCH_BYTES = 1_048_576
EVENT_OVERHEAD = 26
BATCH_EVENTS = 10_000
LARGEST_EVENT = 250_000
READ_BYTES = 512 * 1024
# A line without an end, such as a prompt, is shipped after this.
PATIENCE = timedelta(seconds=5)
# What was shipped is freed on the disk in pieces of this size; the end stays, for last words.
FREED_BYTES = 16 * 1024 * 1024
KEPT_BYTES = 1024 * 1024
# More than this must not wait on the disk for a service that is away: the trainer needs it.
LARGEST_BACKLOG = 1024 * 1024 * 1024

LINE_END = re.compile(rb"\r\n|\n|\r")

logger = logging.getLogger(__name__)
Event = tuple[int, str]


@dataclass
class Follower:
    """Reads a growing file line by line, from its beginning."""

    path: Path
    position: int = 0
    _rest: bytes = b""
    _rest_since: float = field(default_factory=time.monotonic)
    _freed: int = 0
    _skipped: int = 0
    _can_free: bool = True

    def resume(self) -> None:
        """Go on where an agent that was killed had got to."""
        with contextlib.suppress(OSError, ValueError):
            self.position = int(self._mark.read_text())

    def remember(self) -> None:
        """Note that everything that was read has arrived."""
        temporary = self._mark.with_suffix(".new")
        # On a full disk the older mark stays: what is shipped twice then is better than no log.
        with contextlib.suppress(OSError):
            temporary.write_text(str(self._done))
            temporary.replace(self._mark)

    def free(self) -> None:
        """Give back the disk space of what has arrived, so that no trainer's words fill the disk.

        The file keeps its length, and the offset of everything in it.
        """
        self._free(self._done - KEPT_BYTES)

    def skip(self, most: int) -> None:
        """Let go of the oldest of what waits when it is more than `most` bytes; a line says so."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        if size - self.position <= most:
            return
        begin = size - most // 2
        logger.warning("%d bytes of %s are left out", begin - self._done, self.path.name)
        self._skipped += begin - self._done
        self.position, self._rest = begin, b""
        self._free(begin)

    def _free(self, until: int) -> None:
        if self._can_free and until - self._freed >= FREED_BYTES:
            self._can_free = free_beginning(self.path, until)
            self._freed = until

    @property
    def _done(self) -> int:
        return self.position - len(self._rest)

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.shipped")

    def read(self, *, everything: bool = False) -> list[str]:
        """Return the next lines, at most about half a megabyte; the unfinished last one waits."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                content = stream.read(READ_BYTES)
        except FileNotFoundError:
            return []
        self.position += len(content)
        now = time.monotonic()
        if content:
            self._rest_since = now
        *lines, self._rest = LINE_END.split(self._rest + content)
        waited = now - self._rest_since >= PATIENCE.total_seconds()
        too_long = len(self._rest) >= LARGEST_EVENT
        if self._rest and (too_long or (not content and (everything or waited))):
            lines.append(self._rest)
            self._rest = b""
        told = [line.decode("utf-8", errors="replace") for line in lines]
        if told and self._skipped:
            told.insert(0, f"[runctl left out {self._skipped} bytes that nobody would take]")
            self._skipped = 0
        return told


def read_end(path: Path, most: int) -> bytes:
    """Return the last `most` bytes of a file, of whose beginning nothing may be left."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - most))
        return stream.read()


def batches(events: list[Event]) -> list[list[Event]]:
    """Divide events so that each batch keeps the service's limits."""
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


def split_line(line: str) -> list[str]:
    """Divide a line that is too long for one event; an empty one becomes a space."""
    if len(line.encode()) <= LARGEST_EVENT:
        return [line or " "]  # an event's message must have at least one byte
    step = LARGEST_EVENT // 4  # a character has at most four bytes
    return [line[start : start + step] for start in range(0, len(line), step)]


class LogShipper:
    """Follows files and ships each to its stream. What is not shipped yet stays in the file.

    `unwritten` gives, by stream, lines that no file would take.
    """

    def __init__(
        self,
        client: Any,
        *,
        group: str,
        streams: dict[str, list[Path]],
        unwritten: dict[str, Callable[[], list[str]]] | None = None,
    ) -> None:
        self._client = client
        self._group = group
        self._streams = {
            stream: [Follower(path) for path in paths] for stream, paths in streams.items()
        }
        self._unwritten = unwritten or {}
        self._last: dict[str, int] = {}
        self._made: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="logs", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        for followers in self._streams.values():
            for follower in followers:
                follower.resume()
        self._thread.start()

    def stop(self, *, within: timedelta) -> None:
        """Ship what is left, as far as the time suffices."""
        self._stop.set()
        self._thread.join(timeout=within.total_seconds())

    def _live(self) -> None:
        while not self._stop.wait(INTERVAL.total_seconds()):
            self._ship_all()
        self._ship_all(everything=True)

    def _ship_all(self, *, everything: bool = False) -> None:
        for stream, followers in self._streams.items():
            for follower in followers:
                self._ship(stream, follower, everything=everything)
        for stream, take in self._unwritten.items():
            if lines := take():
                self._put_lines(stream, lines)

    def _ship(self, stream: str, follower: Follower, *, everything: bool) -> None:
        while lines := follower.read(everything=everything):
            self._put_lines(stream, lines)
            follower.remember()
            follower.free()
            self._bound()

    def _put_lines(self, stream: str, lines: list[str]) -> None:
        now = max(int(time.time() * 1000), self._last.get(stream, 0))
        self._last[stream] = now
        events = [(now, piece) for line in lines for piece in split_line(line)]
        for batch in batches(events):
            self._put(stream, batch)

    def _bound(self) -> None:
        for followers in self._streams.values():
            for follower in followers:
                follower.skip(LARGEST_BACKLOG)

    def _put(self, stream: str, batch: list[Event]) -> None:
        """Put one batch, however often it takes; only the agent's own end gives up on it."""
        wait = 0.5
        while True:
            try:
                self._make(stream)
                self._client.put_log_events(
                    logGroupName=self._group,
                    logStreamName=stream,
                    logEvents=[{"timestamp": at, "message": text} for at, text in batch],
                )
                return
            except ClientError as exc:
                # InvalidParameter never gets better; anything else may (throttling, a stream that
                # somebody deleted, permissions that have not spread yet).
                if code_of(exc) in {"InvalidParameterException", "DataAlreadyAcceptedException"}:
                    return
                self._made.discard(stream)
            except BotoCoreError:
                pass
            if self._stop.is_set() and wait > 2:
                return
            self._bound()
            time.sleep(wait)
            wait = min(wait * 2, 10)

    def _make(self, stream: str) -> None:
        if stream in self._made:
            return
        try:
            self._client.create_log_stream(logGroupName=self._group, logStreamName=stream)
        except ClientError as exc:
            if code_of(exc) != "ResourceAlreadyExistsException":
                raise
        self._made.add(stream)
