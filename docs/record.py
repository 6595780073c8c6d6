"""A recorder that runs a command in a terminal and writes an animated SVG: `make recording`.

The program runs in a pseudo-terminal, and an emulated screen (pyte) receives its output, so the
picture shows exactly what a person would have seen. The SVG needs no script: CSS moves each line
through its states. Without animation (reduced motion, or a renderer that does not support it), it
shows the last screen.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyte

FRAME_SECONDS = 0.4
HOLD_SECONDS = 8.0
CHARACTER_WIDTH, LINE_HEIGHT, FONT_SIZE = 8.4, 19, 14
MARGIN, TITLE_HEIGHT = 16, 34

# The 16 colors as pyte names them, each as (light theme, dark theme). Black is the remaining part
# of progress bars, so it recedes on both; bright colors share the shade of the plain ones.
COLORS = {
    "black": ("#d0d7de", "#30363d"),
    "red": ("#cf222e", "#ff7b72"),
    "green": ("#116329", "#7ee787"),
    "brown": ("#9a6700", "#e3b341"),
    "blue": ("#0969da", "#79c0ff"),
    "magenta": ("#8250df", "#d2a8ff"),
    "cyan": ("#1b7c83", "#56d4dd"),
    "white": ("#57606a", "#c9d1d9"),
    "faint": ("#6e7781", "#8b949e"),
}


class Screen(pyte.Screen):
    """A pyte screen that keeps faint text, which pyte ignores, as a separate color."""

    def select_graphic_rendition(self, *attributes: int, **options: Any) -> None:
        """Apply the attributes of SGR, with 2 (faint) as a foreground color."""
        super().select_graphic_rendition(*attributes, **options)
        if 2 in attributes and self.cursor.attrs.fg == "default":
            self.cursor.attrs = self.cursor.attrs._replace(fg="faint")


@dataclass(frozen=True)
class Span:
    """Adjacent characters of a line that look alike."""

    column: int
    text: str
    color: str
    is_bold: bool


Line = tuple[Span, ...]


@dataclass(frozen=True)
class Frame:
    """The screen at one moment, in seconds since the start."""

    at: float
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Recording:
    """The frames of a program's run, and the exit code of the program."""

    frames: tuple[Frame, ...]
    seconds: float
    exit_code: int


def record(command: Sequence[str], *, columns: int, rows: int, prompt: str) -> Recording:
    """Run the command in a pseudo-terminal of that size and return what its screen showed."""
    screen = Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {prompt}\r\n".encode())
    terminal, theirs = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    program = subprocess.Popen(
        list(command),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-16color", "COLORTERM": ""},
        start_new_session=True,
    )
    os.close(theirs)
    began = time.monotonic()
    frames = [Frame(0.0, lines_of(screen))]
    for chunk in read(terminal):
        stream.feed(chunk)
        passed = time.monotonic() - began
        if passed - frames[-1].at >= FRAME_SECONDS:
            frames.append(Frame(passed, lines_of(screen)))
    os.close(terminal)
    exit_code = program.wait()
    seconds = time.monotonic() - began
    frames.append(Frame(seconds, lines_of(screen)))
    return Recording(tuple(frames), seconds, exit_code)


def read(terminal: int) -> Iterator[bytes]:
    """Yield the program's output, and an empty chunk where it is silent, until it has ended."""
    while True:
        if not select.select([terminal], [], [], FRAME_SECONDS)[0]:
            yield b""
            continue
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError as problem:
            if problem.errno != errno.EIO:  # what Linux returns when the other side is closed
                raise
            return
        if not chunk:
            return
        yield chunk


def lines_of(screen: pyte.Screen) -> tuple[Line, ...]:
    """Return the lines of the screen."""
    return tuple(spans_of(screen, row) for row in range(screen.lines))


def spans_of(screen: pyte.Screen, row: int) -> Line:
    """Return one line as spans, without the blank ones."""
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    spans, column = [], 0
    for (color, is_bold), alike in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
        text = "".join(cell.data for cell in alike)
        if stripped := text.strip():
            start = column + len(text) - len(text.lstrip())
            spans.append(Span(start, stripped, color, is_bold))
        column += len(text)
    return tuple(spans)


@dataclass(frozen=True)
class Change:
    """A line that looks like this from one moment on."""

    at: float
    line: Line


def changes_of(frames: Sequence[Frame], row: int) -> list[Change]:
    """Return the states of one line, in order, each with the moment at which it begins."""
    changes: list[Change] = []
    for frame in frames:
        if not changes or frame.lines[row] != changes[-1].line:
            changes.append(Change(frame.at, frame.lines[row]))
    return changes


def draw(recording: Recording, *, columns: int, title: str, speed: float) -> str:
    """Return the recording as an SVG that plays `speed` times as fast, forever."""
    frames = recording.frames
    rows = max(index for frame in frames for index, line in enumerate(frame.lines) if line) + 1
    width = round(columns * CHARACTER_WIDTH + 2 * MARGIN)
    height = TITLE_HEIGHT + rows * LINE_HEIGHT + MARGIN
    total = recording.seconds / speed + HOLD_SECONDS
    styles, body = [], []
    for row in range(rows):
        changes = changes_of(frames, row)
        top = TITLE_HEIGHT + row * LINE_HEIGHT
        states = "".join(
            f'<g transform="translate({index * width})">{draw_line(change.line)}</g>'
            for index, change in enumerate(changes)
            if change.line
        )
        body.append(
            f'<svg x="{MARGIN}" y="{top}" width="{width - 2 * MARGIN}" height="{LINE_HEIGHT}">'
            f'<g id="r{row}">{states}</g></svg>'
        )
        styles.append(animate(row, changes, width=width, total=total, speed=speed))
    return PAGE.format(
        width=width,
        height=height,
        inner_width=width - 1,
        inner_height=height - 1,
        title=escape(title),
        middle=width / 2,
        font_size=FONT_SIZE,
        light="".join(f".{name}{{fill:{light}}}" for name, (light, _) in COLORS.items()),
        dark="".join(f".{name}{{fill:{dark}}}" for name, (_, dark) in COLORS.items()),
        styles="\n".join(filter(None, styles)),
        body="\n".join(body),
    )


def draw_line(line: Line) -> str:
    """Return a line's text elements, each with its width, so that columns align in any font."""
    drawn = []
    for span in line:
        color = "faint" if span.color == "brightblack" else span.color.removeprefix("bright")
        names = [color] if color in COLORS else []
        names += ["bold"] if span.is_bold else []
        classes = f' class="{" ".join(names)}"' if names else ""
        left = round(span.column * CHARACTER_WIDTH, 1)
        length = round(len(span.text) * CHARACTER_WIDTH, 1)
        drawn.append(
            f'<text x="{left}" y="{FONT_SIZE}" textLength="{length}"'
            f' lengthAdjust="spacingAndGlyphs"{classes}>{escape(span.text)}</text>'
        )
    return "".join(drawn)


def animate(row: int, changes: Sequence[Change], *, width: int, total: float, speed: float) -> str:
    """Return the style that shows each state of a line at its time, and the last one at rest."""
    if len(changes) == 1:
        return ""
    steps = "".join(
        f"{change.at / speed / total:.2%}{{transform:translateX({-index * width}px)}}"
        for index, change in enumerate(changes)
    )
    last = -(len(changes) - 1) * width
    return (
        f"#r{row}{{transform:translateX({last}px);animation:k{row} {total:.1f}s step-end infinite}}"
        f"@keyframes k{row}{{{steps}}}"
    )


PAGE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
width="{width}" height="{height}" role="img" aria-label="{title}">
<style>
text{{font:{font_size}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;\
white-space:pre;fill:#24292f}}
.bold{{font-weight:bold}}
.back{{fill:#ffffff;stroke:#d0d7de}} .dot{{fill:#d0d7de}}
{light}
@media (prefers-color-scheme:dark){{
text{{fill:#e6edf3}} .back{{fill:#0d1117;stroke:#30363d}} .dot{{fill:#484f58}}
{dark}
}}
{styles}
@media (prefers-reduced-motion:reduce){{g{{animation:none!important}}}}
</style>
<rect class="back" x=".5" y=".5" width="{inner_width}" height="{inner_height}" rx="8"/>
<circle class="dot" cx="20" cy="14" r="5"/><circle class="dot" cx="38" cy="14" r="5"/>\
<circle class="dot" cx="56" cy="14" r="5"/>
<text class="faint" x="{middle}" y="18" text-anchor="middle">{title}</text>
{body}
</svg>
"""


def main() -> None:
    """Record the given command, and exit with its exit code."""
    parser = argparse.ArgumentParser(description="Record a command as an animated SVG.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument(
        "--seconds", type=float, default=24.0, help="maximum length of the animation"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    shown = " ".join([Path(arguments.command[0]).name, *arguments.command[1:]])
    recording = record(
        arguments.command, columns=arguments.columns, rows=arguments.rows, prompt=shown
    )
    if recording.exit_code == 0:
        speed = max(1.0, recording.seconds / arguments.seconds)
        title = f"{shown} ({speed:.0f}× speed)"
        drawn = draw(recording, columns=arguments.columns, title=title, speed=speed)
        arguments.output.write_text(drawn)
    sys.exit(recording.exit_code)


if __name__ == "__main__":
    main()
