"""The displays of a sweep that is followed: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from runctl.cli.display.sweep_page import (
    STATE_STYLES,
    best_text,
    chosen_text,
    progress_text,
    value_text,
)
from runctl.model.trial import TrialState
from runctl.report.reasons import brief
from runctl.report.sweep_document import SweepDocument, TrialEntry


class PlainDisplay:
    """Prints a line for each trial that has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, sweep: SweepDocument | None) -> None:
        """Show nothing: the ends of trials are announced."""

    def announce(self, entry: TrialEntry, sweep: SweepDocument) -> None:
        """Print how a trial ended, and whether it is the best so far."""
        trial, best = entry.trial, sweep.best
        parts = [f"── trial {trial.number} {trial.state.value}: {chosen_text(trial)}"]
        if sweep.options.metric and trial.value is not None:
            parts.append(f"{sweep.options.metric} {value_text(trial.value)}")
        if best is not None and best.number == trial.number:
            parts.append("best so far")
        if trial.reason and trial.state is not TrialState.COMPLETED:
            parts.append(brief(trial.reason))
        self._console.print(" · ".join(parts), style=STATE_STYLES[trial.state], soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a problem."""
        self._console.print(f"── {text}", style="yellow", soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """Prints the same lines above a view that is redrawn."""

    def __init__(self, console: Console, live: Live) -> None:
        super().__init__(console)
        self._live = live

    def show(self, sweep: SweepDocument | None) -> None:
        """Redraw the view."""
        if sweep is None:
            self._live.update(Text("pending", style="dim"))
            return
        lines = [Text.assemble((sweep.group.group_id, "bold"), "  ", progress_text(sweep))]
        if (best := sweep.best) is not None:
            lines.append(Text(f"  best {best_text(best, sweep.options)}"))
        self._live.update(Group(*lines, Text("  Ctrl-C leaves it running", style="dim")))


@contextmanager
def open_display(console: Console) -> Iterator[PlainDisplay]:
    """Return the display that suits the console."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(console, live)
