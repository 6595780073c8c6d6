"""What goes where: results to stdout, progress and logs to stderr, and with --json one document."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runctl.cli.display.streams import write_rendered
from runctl.model.errors import InvalidRequestError
from runctl.model.printable import escape_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass
class Output:
    """The two streams of one command."""

    as_json: bool = False
    has_result: bool = False

    @cached_property
    def stdout(self) -> Console:
        """Results."""
        return _open_console(stderr=False)

    @cached_property
    def stderr(self) -> Console:
        """Progress and logs."""
        return _open_console(stderr=True)

    def result(self, document: Mapping[str, Any], *human: RenderableType) -> None:
        """Print a command's result: the document with --json, else what a person reads."""
        if self.as_json:
            # Escaped, so that the document keeps what the terminal must not get.
            text = escape_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"
        else:
            # Captured: rich would end the process by itself when a reader has left.
            with self.stdout.capture() as captured:
                for part in human:
                    self.stdout.print(part, soft_wrap=isinstance(part, str))
            text = captured.get()
        self.has_result = True
        write_rendered(text)

    def line(self, text: str) -> None:
        """Print a line of a result that comes in lines."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def tell(self, text: str, *, style: str = "") -> None:
        """Tell what is going on, on stderr."""
        self.stderr.print(text, style=style or None, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str, *, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar on a terminal; what is yielded takes the bytes done since it was called."""
        if not self.stderr.is_terminal:
            yield lambda _: None
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
        )
        with progress.Progress(*columns, console=self.stderr, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.advance(task, done)

    @contextlib.contextmanager
    def spinner(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show what is being waited for; what is yielded changes it. Plain lines off a terminal."""
        if self.stderr.is_terminal:
            with self.stderr.status(what) as status:
                yield status.update
            return
        told = {what}
        self.tell(what)

        def tell(text: str) -> None:
            if text not in told:
                told.add(text)
                self.tell(text)

        yield tell

    def fail(self, error: BaseException, *, hint: str = "") -> None:
        """Print an error: a document on stdout with --json, else a sentence on stderr."""
        message = str(error) or type(error).__name__
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        if self.as_json and not self.has_result:
            told = [{"field": one.field, "message": one.message} for one in problems]
            name = type(error).__name__
            self.result({"error": {"type": name, "message": message, "problems": told}})
            return
        from rich.text import Text

        lines = [str(problem) for problem in problems] or [message]
        for line in lines:
            self.stderr.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
        if hint:
            self.tell(hint, style="dim")


def _open_console(*, stderr: bool) -> Console:
    from runctl.cli.display.console import open_console

    return open_console(stderr=stderr)
