"""The last lines of a program's output, shown as the reason why its attempt ended."""

from __future__ import annotations

import re
import textwrap

from rich.text import Text

from runctl.model.excerpt import ELLIPSIS
from runctl.report.reasons import last_lines

_FRAME = re.compile(r'(?P<before>\s*File ")(?P<path>[^"]+)(?P<after>", line \d+.*)')
_MARKERS = re.compile(r"\s*[~^]+\s*")


def last_lines_text(reason: str, *, width: int, indent: str = "  ") -> Text:
    """Return the lines of a reason, indented, without dividing a word.

    Paths in tracebacks lose their beginning where they do not fit.
    """
    room = width - len(indent)
    lines = [part for line in last_lines(reason) for part in _fitted(line.rstrip(), room)]
    return Text("\n".join(f"{indent}{line}" for line in lines), no_wrap=True, overflow="ignore")


def _fitted(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    if _MARKERS.fullmatch(line):
        return []  # the columns that they mark are gone once the line above is wrapped
    if frame := _FRAME.fullmatch(line):
        line = f"{frame['before']}{_shortened(frame, width)}{frame['after']}"
    margin = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line.strip(),
        max(width, len(margin) + 20),
        initial_indent=margin,
        subsequent_indent=f"{margin}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shortened(frame: re.Match[str], width: int) -> str:
    room = width - len(frame[0]) + len(frame["path"])
    parts = frame["path"].split("/")
    for first in range(1, len(parts)):
        path = "/".join([ELLIPSIS, *parts[first:]])
        if len(path) <= room:
            return path
    return f"{ELLIPSIS}/{parts[-1]}" if len(parts) > 1 else frame["path"]
