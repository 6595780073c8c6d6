"""Display lines: a program's output as the lines that a terminal would show.

A line ends with LF or CRLF and is passed on at once. A lone CR, or a cursor that moves up, redraws
a line, as progress bars do. Such a line is identified by its row: its latest state is passed on
once a second, and its final state in any case. Nested bars (tqdm writes LF, CR, the bar, and moves
up again) are in different rows.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from runctl.model.log_fragments import MARKS_BYTES, Fragment, divide, marked, whole_characters

# CloudWatch Logs takes events of 256 KiB.
MAX_EVENT_BYTES = 250_000
# A line without an end, such as a prompt, is passed on as a fragment after this.
UNFINISHED_LINE_SECONDS = 5.0
REDRAW_SECONDS = 1.0
# The number of rows that a cursor can move up, and so the maximum number of bars.
MAX_ROWS = 64

_MOVE = re.compile(rb"\r?\n|\r|\x1b\[[01]?G|\x1b\[(\d{0,3})([ABEF])")
_INVISIBLE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x20\x7f]")
_NO_LETTERS = re.compile(rb"[^A-Za-z]+")


@dataclass
class _Bar:
    """A line that is redrawn: its last state, and whether that was passed on."""

    state: bytes = b""
    waits_since: float | None = None

    def draw(self, state: bytes, now: float) -> None:
        state = state.rstrip(b"\b")
        if state == self.state or _is_blank(state):
            return
        self.state = state
        if self.waits_since is None:
            self.waits_since = now

    def is_due(self, now: float) -> bool:
        return self.waits_since is not None and now - self.waits_since >= REDRAW_SECONDS


class DisplayLines:
    """Takes a file's bytes in order and returns the texts of its log events.

    `position` is the offset of the first byte, and `line_start` that of its line, if fragments of
    this line were passed on already. Bytes before the offset `done` are not needed any more.
    """

    def __init__(self, name: str, *, position: int = 0, line_start: int | None = None) -> None:
        self._name = name
        self.done = position
        self.line_start = line_start
        self._rest = b""
        self._rest_since = 0.0
        self._row = self._top = 0
        self._bars: dict[int, _Bar] = {}

    def feed(self, content: bytes, now: float) -> list[str]:
        """Take the next bytes; return what can be passed on."""
        if not self._rest:
            self._rest_since = now
        data, start, base = self._rest + content, 0, self.done
        if self._is_plain(data):
            # This is the case for nearly all output, and ten times as fast.
            *lines, self._rest = data.split(b"\n")
            self.done += len(data) - len(self._rest)
            self._rest_since = now if lines else self._rest_since
            return [line.decode(errors="replace") or " " for line in lines]
        events: list[str] = []
        for move in _MOVE.finditer(data):
            if move[0] == b"\r" and move.end() == len(data):
                break  # perhaps the first half of a CRLF
            self.done = base + start
            events += self._end_segment(data[start : move.start()], move, now)
            start = move.end()
        self.done, self._rest = base + start, data[start:]
        if start:
            self._rest_since = now
        while len(self._rest) >= MAX_EVENT_BYTES:
            events += self._pass_on_fragment(MAX_EVENT_BYTES - MARKS_BYTES)
        return [*events, *self._due(now)]

    def _is_plain(self, data: bytes) -> bool:
        """Whether this consists of plain lines that all fit into an event."""
        return (
            self._row == self._top
            and not self._bars
            and self.line_start is None
            and b"\n" in data
            and b"\r" not in data
            and b"\x1b" not in data
            and max(map(len, data.split(b"\n"))) < MAX_EVENT_BYTES // 4
        )

    def end(self, now: float) -> list[str]:
        """Return everything that is left."""
        self._draw_rest(now)
        events = list(self._drawn())
        if self._rest:
            if self._row not in self._bars:
                events += self._pass_on(self._rest, is_last=True)
            self.done, self._rest = self.done + len(self._rest), b""
        return events

    def skip_to(self, position: int) -> list[str]:
        """Continue at `position`; return the end of a line whose fragments were passed on."""
        events = [] if self.line_start is None else self._pass_on(b"", is_last=True)
        self.done, self._rest, self._bars = position, b"", {}
        return events

    def _end_segment(self, segment: bytes, move: re.Match[bytes], now: float) -> Iterator[str]:
        was_open = self.line_start is not None
        if was_open:
            yield from self._pass_on(segment, is_last=True)
            segment = b""
        direction = (move[2] or move[0][-1:]).decode()
        if direction == "\n" and self._row == self._top:
            if not was_open:
                yield from self._end_line(segment)
            self._row = self._top = self._top + 1
            self._bars.pop(self._top - MAX_ROWS, None)
            return
        if direction in "\rG" or segment:
            self._bars.setdefault(self._row, _Bar()).draw(segment, now)
        count = int(move[1] or 1) if move[2] else 1
        if direction in "\nBE":
            self._row = min(self._row + count, self._top)
        elif direction in "AF":
            self._row = max(self._row - count, self._top - MAX_ROWS + 1, 0)
        if self._row < self._top:
            self._bars.setdefault(self._row, _Bar())

    def _end_line(self, segment: bytes) -> Iterator[str]:
        bar = self._bars.pop(self._row, None)
        yield from self._drawn()
        if bar is None:
            yield from self._pass_on(segment, is_last=True)
            return
        is_new = not _is_blank(segment) and segment != bar.state
        # `50%` CR `done` LF: the bar's last state differs from the line that replaces it.
        if bar.waits_since is not None and not (is_new and _is_alike(segment, bar.state)):
            yield from self._events(bar.state)
        if is_new:
            yield from self._pass_on(segment, is_last=True)

    def _due(self, now: float) -> Iterator[str]:
        waits = bool(self._rest) and not self._draw_rest(now)
        if waits and now - self._rest_since >= UNFINISHED_LINE_SECONDS:
            yield from self._pass_on_fragment(len(self._rest))
            self._rest_since = now
        yield from self._drawn(now)

    def _draw_rest(self, now: float) -> bool:
        """Draw an unfinished line as a bar's state if it is in a bar's row; return whether so."""
        state = self._rest.rstrip(b"\r")
        if self.line_start is None and state != self._rest and not _is_blank(state):
            self._bars.setdefault(self._row, _Bar())
        bar = self._bars.get(self._row)
        if bar is not None:
            bar.draw(state, now)
        return bar is not None

    def _drawn(self, now: float | None = None) -> Iterator[str]:
        """Yield the states of waiting bars, with `now` only if they have waited long enough."""
        for _, bar in sorted(self._bars.items()):
            if bar.is_due(now) if now is not None else bar.waits_since is not None:
                bar.waits_since = None
                yield from self._events(bar.state)

    def _pass_on_fragment(self, most: int) -> list[str]:
        length = whole_characters(self._rest[:most].rstrip(b"\r\x1b"))
        if not length:
            return []
        content, self._rest = self._rest[:length], self._rest[length:]
        self._bars.pop(self._row, None)
        events = self._pass_on(content, is_last=False)
        self.done += length
        return events

    def _pass_on(self, content: bytes, *, is_last: bool) -> list[str]:
        """Return the events of the next line, or of a part of it."""
        is_first = self.line_start is None
        if self.line_start is None:
            self.line_start = self.done
        events = self._events(content, is_first=is_first, is_last=is_last)
        if is_last:
            self.line_start = None
        return events

    def _events(self, content: bytes, *, is_first: bool = True, is_last: bool = True) -> list[str]:
        # A byte that is not UTF-8 becomes a character of three bytes.
        text = content.decode(errors="replace")
        key = f"{self._name}:{self.done if self.line_start is None else self.line_start}"
        return events_of(text, key, is_first=is_first, is_last=is_last)


def events_of(text: str, key: str, *, is_first: bool = True, is_last: bool = True) -> list[str]:
    """Return the events of a line, or of a part of it: several when it is too long for one."""
    parts = divide(text, MAX_EVENT_BYTES - MARKS_BYTES)
    return [
        marked(
            Fragment(
                text=part,
                key=key,
                is_first=is_first and number == 0,
                is_last=is_last and number == len(parts) - 1,
            )
        )
        for number, part in enumerate(parts)
    ]


def _is_blank(state: bytes) -> bool:
    return not _INVISIBLE.sub(b"", state)


def _is_alike(first: bytes, second: bytes) -> bool:
    """Whether two states are of the same bar: they differ only in digits, bars and signs."""
    return _NO_LETTERS.sub(b"", first) == _NO_LETTERS.sub(b"", second)
