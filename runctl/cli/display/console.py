"""The console for tables, colours and progress bars, which prints only printable text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from runctl.model.printable import printable

# A table in a pipe or a file must not be truncated, because it may be searched.
_WIDTH_OF_A_PIPE = 200


class PrintableConsole(Console):
    """A console on which only its own colours and movements can steer the terminal."""

    @property
    def file(self) -> IO[str]:
        """The underlying stream: both a live display and the guard wrap the standard streams."""
        stream = super().file
        while hasattr(stream, "rich_proxied_file"):
            stream = stream.rich_proxied_file
        return stream

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render to segments of printable text."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            shown = text if control else printable(text)
            yield segment if shown is text else Segment(shown, style)


def open_console(*, stderr: bool) -> PrintableConsole:
    """Return the console of a standard stream."""
    console = PrintableConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = int(os.environ.get("COLUMNS") or _WIDTH_OF_A_PIPE)
    return console
