"""The standard streams of a command: what is printed on them cannot steer the terminal.

Nothing that prints has to think of it: `print`, `typer.echo`, warnings and tracebacks go through
`sys.stdout` and `sys.stderr`, which are guarded while a command runs. Tables, colours and bars go
past the guard: `runctl.cli.display.console` makes each text printable before it adds its own
sequences.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from runctl.model.printable import printable


class GuardedStream:
    """A text stream that passes on printable text, and all else as the stream itself does it."""

    def __init__(self, stream: TextIO) -> None:
        # Under this name rich's consoles find the stream that they may write colours to.
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write what of a text can be shown."""
        self.rich_proxied_file.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard the standard streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(GuardedStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def write_rendered(text: str) -> None:
    """Write what a console has rendered to stdout."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    stream.write(text)
    stream.flush()
