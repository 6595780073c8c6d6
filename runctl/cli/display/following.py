"""The displays of a run that is followed: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from runctl.cli.display.console import Verbatim
from runctl.cli.display.reasons import last_lines_text
from runctl.cli.display.styles import STATUS_STYLES
from runctl.model.outcome import RunStatus
from runctl.report.descriptions import (
    checkpoint_name,
    checkpoint_text,
    counts_text,
    inputs_text,
    metrics_text,
    result_text,
    service_text,
    shards_text,
    took_text,
)
from runctl.report.follower import Display, Tone
from runctl.report.reasons import brief
from runctl.report.wording import format_count, format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from runctl.report.run_document import RunDocument

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

    def show(self, run_id: str, run: RunDocument | None) -> None:
        """Show nothing: changes are announced."""

    def announce(self, text: str, tone: Tone = Tone.NEUTRAL) -> None:
        """Print a line, marked as runctl's own."""
        self._console.print(f"── {text}", style=_STYLES[tone], soft_wrap=True)

    def log(self, text: str) -> None:
        """Print a line of the trainer as it is."""
        self._console.print(Verbatim(text), soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """Prints the same lines above a view that is redrawn."""

    def __init__(self, console: Console, update: Callable[..., None]) -> None:
        super().__init__(console)
        self._update = update

    def show(self, run_id: str, run: RunDocument | None) -> None:
        """Redraw the view."""
        self._update(following_view(run_id, run))


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """Return the display that suits the console."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(console, live.update)


def following_view(run_id: str, run: RunDocument | None) -> RenderableType:
    """Return the state of a run that is being followed, in a few lines."""
    if run is None:
        return Text.assemble((run_id, "bold"), "  ", ("pending", "dim"))
    lines = [_heading(run, "  ")]
    last = run.last_attempt
    if last is not None:
        parts = [f"attempt {last.number}"]
        parts += [f"{len(last.nodes)} nodes"] if last.nodes else []
        parts += [last.pool] if last.pool else []
        parts.append(last.state)
        parts += [f"step {last.step}"] if last.step is not None else []
        parts += [took_text(last)] if last.took is not None else []
        lines.append(Text("  " + " · ".join(parts)))
    shards = shards_text(run)
    if shards:
        lines.append(Text(f"  shards {shards}"))
    checkpoint = checkpoint_text(run)
    state = f"checkpoint {checkpoint}" if checkpoint else service_text(run)
    counts = [state] if state and not shards else []
    counts += counts_text(run.cost)
    if counts:
        lines.append(Text(f"  {' · '.join(counts)}{' so far' if counts[1:] or shards else ''}"))
    if inputs := inputs_text(last):
        lines.append(Text(f"  inputs {inputs}"))
    if last is not None and (metrics := metrics_text(last.metrics)):
        lines.append(Text(f"  {metrics}"))
    return Group(*lines, Text("  Ctrl-C leaves it running", style="dim"))


def summary(run: RunDocument, *, width: int) -> Text:
    """Return in one line how a run ended, then its last lines if they are why, and its result."""
    parts = [name] if (name := checkpoint_name(run.entry)) else []
    if run.shards is not None:
        parts.append(f"{run.shards.done:,} of {format_count(run.shards.total, 'shard')}")
        parts += [f"{run.shards.failed} failed"] if run.shards.failed else []
    parts.append(format_count(len(run.timeline), "attempt"))
    parts += counts_text(run.cost)
    if run.entry.ended_at is not None:
        parts.append(format_duration(run.took))
    text = _heading(run, " ")
    text.append(f": {', '.join(parts)}")
    reason = run.entry.reason
    if reason and run.status is not RunStatus.COMPLETED:
        text.append(f"\n{brief(reason)}")
        if "\n" in reason:
            text.append("\n").append_text(last_lines_text(reason, width=width))
    if result := result_text(run.metrics):
        text.append(f"\n{result}")
    return text


def _heading(run: RunDocument, space: str) -> Text:
    return Text.assemble((run.run_id, "bold"), space, (run.status.value, STATUS_STYLES[run.status]))
