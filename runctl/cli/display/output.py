"""The output of a command: results on stdout, progress on stderr, with --json one document."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runctl.cli.display.streams import write_rendered
from runctl.cli.display.suggestions import for_local
from runctl.model.errors import InvalidRequestError
from runctl.model.printable import escape_json, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass
class Output:
    """The two output streams of a command; `is_local`: it is about the local cloud."""

    as_json: bool = False
    is_local: bool = False
    has_result: bool = False

    @cached_property
    def stdout(self) -> Console:
        """Results."""
        return self._open_console(stderr=False)

    @cached_property
    def stderr(self) -> Console:
        """Progress and logs."""
        return self._open_console(stderr=True)

    def result(self, document: Mapping[str, Any], *human: RenderableType) -> None:
        """Print a command's result: the document with --json, otherwise `human`."""
        if self.as_json:
            # Escaped, so that the document keeps characters that would steer a terminal.
            text = escape_json(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"
        elif all(isinstance(part, str) for part in human):
            # Without Rich, whose import would double the time of `runctl --version`.
            text = "".join(f"{printable(self._completed(str(part)))}\n" for part in human)
        else:
            from rich.text import Text

            # Captured, because rich ends the process when the reader closes the pipe.
            with self.stdout.capture() as captured:
                for part in human:
                    self.stdout.print(part, soft_wrap=isinstance(part, (str, Text)))
            text = captured.get()
        self.has_result = True
        write_rendered(text)

    def line(self, text: str) -> None:
        """Print one line of a result that is printed line by line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def note(self, text: str, *, style: str = "") -> None:
        """Print a message on stderr."""
        self.stderr.print(text, style=style or None, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str, *, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar on a terminal; yields a function that advances it by some bytes."""
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
    def spinner(self, what: str, *, is_brief: bool = False) -> Iterator[Callable[[str], None]]:
        """Show what a command waits for; yields a function that changes the text.

        Where stderr is not a terminal, each text is printed once; if `is_brief`, only the first.
        """
        if self.stderr.is_terminal:
            with self.stderr.status(what) as status:
                yield status.update
            return
        printed = {what}
        self.note(what)

        def update(text: str) -> None:
            if not is_brief and text not in printed:
                printed.add(text)
                self.note(text)

        yield update

    def fail(self, error: BaseException, *, hint: str = "") -> None:
        """Print an error: a document on stdout with --json, otherwise a sentence on stderr."""
        message = self._completed(str(error)) or type(error).__name__
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        if self.as_json and not self.has_result:
            listed = [
                {"field": problem.field, "message": self._completed(problem.message)}
                for problem in problems
            ]
            name = type(error).__name__
            self.result({"error": {"type": name, "message": message, "problems": listed}})
            return
        from rich.text import Text

        lines = [str(problem) for problem in problems] or [message]
        for line in lines:
            self.stderr.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
        if hint:
            self.note(hint, style="dim")

    def _completed(self, text: str) -> str:
        """Return a text whose suggested commands reach the cloud that the user works on."""
        return for_local(text) if self.is_local else text

    def _open_console(self, *, stderr: bool) -> Console:
        from runctl.cli.display.console import open_console

        return open_console(stderr=stderr, is_local=lambda: self.is_local)
