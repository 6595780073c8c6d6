"""The displays of a run that is followed: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rich.live import Live

from runctl.cli.display.view import following_view
from runctl.model.run import Attempt, Run
from runctl.report.follower import Display, Tone

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {
    Tone.NEUTRAL: "dim",
    Tone.PROGRESS: "cyan",
    Tone.SUCCESS: "green",
    Tone.WARNING: "yellow",
}


class PlainDisplay:
    """Prints each announcement and each line of output once."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Show nothing: changes are announced."""

    def announce(self, text: str, tone: Tone = Tone.NEUTRAL) -> None:
        """Print a line, marked as runctl's own."""
        self._console.print(f"── {text}", style=_STYLES[tone], soft_wrap=True)

    def log(self, text: str) -> None:
        """Print a line of the trainer as it is."""
        self._console.print(text, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """Prints the same lines above a view that is redrawn."""

    def __init__(self, console: Console, update: Callable[..., None]) -> None:
        super().__init__(console)
        self._update = update

    def show(self, run_id: str, run: Run | None, attempts: Sequence[Attempt]) -> None:
        """Redraw the view."""
        self._update(following_view(run_id, run, attempts, now=datetime.now(timezone.utc)))


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """Return the display that suits the console."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(console, live.update)
