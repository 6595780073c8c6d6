"""The console for tables, colours and progress bars, which prints only printable text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from runctl.cli.display.suggestions import edits_for_local
from runctl.model.printable import printable

# A table in a pipe or a file must not be truncated, because it may be searched.
_WIDTH_OF_A_PIPE = 200


class PrintableConsole(Console):
    """A console on which only its own colours and movements can steer the terminal.

    While `is_local` says so, suggested commands are printed with what they need to reach the local
    cloud.
    """

    def __init__(self, *, is_local: Callable[[], bool] = lambda: False, **settings: Any) -> None:
        super().__init__(**settings)
        self._is_local = is_local

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
        if isinstance(renderable, Text):
            renderable = self._completed(renderable)
        for segment in super().render(renderable, options):
            text, style, control = segment
            shown = text if control else printable(text)
            yield segment if shown is text else Segment(shown, style)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text of a string; a table asks for it before it divides the width."""
        return self._completed(super().render_str(text, **settings))

    def _completed(self, text: Text) -> Text:
        """Return a text whose suggested commands reach the cloud that the user works on."""
        edits = list(edits_for_local(text.plain)) if self._is_local() else []
        if not edits:
            return text
        whole, at = text.blank_copy(), 0
        for edit in edits:
            whole.append_text(text[at : edit.start]).append(edit.new)
            at = edit.end
        return whole.append_text(text[at:])


class Verbatim:
    """A line of a program's output, printed as it is."""

    def __init__(self, line: str) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        return Text(self._line).__rich_console__(console, options)


def open_console(*, stderr: bool, is_local: Callable[[], bool] = lambda: False) -> PrintableConsole:
    """Return the console of a standard stream."""
    console = PrintableConsole(
        is_local=is_local, stderr=stderr, highlight=False, markup=False, emoji=False
    )
    if not console.is_terminal:
        console.width = int(os.environ.get("COLUMNS") or _WIDTH_OF_A_PIPE)
    return console
