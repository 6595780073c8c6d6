"""The standard streams of a command, guarded so that printed text cannot steer the terminal.

`print`, `typer.echo`, warnings and tracebacks all go through `sys.stdout` and `sys.stderr`, which
are guarded while a command runs. Tables, colours and progress bars bypass the guard:
`runctl.cli.display.console` makes their text printable before it adds its own sequences.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from runctl.model.printable import printable


class GuardedStream:
    """A text stream that writes only printable text; everything else is the wrapped stream's."""

    def __init__(self, stream: TextIO) -> None:
        # Rich's consoles look for the underlying stream under this name.
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write the printable form of a text."""
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
    """Write rendered text, with its terminal sequences, to stdout."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    stream.write(text)
    stream.flush()
