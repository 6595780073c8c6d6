"""The page of `runctl compare`: a table of results, the best of each marked."""

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.styles import STATUS_STYLES
from runctl.model.outcome import RunStatus
from runctl.report.comparison import ComparedRun, Comparison
from runctl.report.descriptions import NOTHING, metric_text
from runctl.report.wording import format_duration

BEST = "*"


def comparison_page(comparison: Comparison) -> list[RenderableType]:
    """Return the table, a column for each run, and what its mark means."""
    runs = comparison.runs
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("", style="dim", no_wrap=True)
    for run in runs:
        table.add_column(run.run_id, justify="right", overflow="fold")
    table.add_row("status", *(_status(run) for run in runs))
    if any(run.subject for run in runs):
        table.add_row("evaluates", *(run.subject or NOTHING for run in runs))
    table.add_row("step", *(NOTHING if run.step is None else str(run.step) for run in runs))
    table.add_row("took", *(format_duration(run.took) for run in runs))
    table.add_row("machine time", *(_machine_time(run) for run in runs))
    table.add_row("interruptions", *(str(run.interruptions) for run in runs))
    for name in comparison.names:
        table.add_row(name, *(_value(comparison, run, name) for run in runs))
    parts: list[RenderableType] = [table]
    if any(comparison.best.values()):
        parts.append(Text(f"{BEST} best of its row", style="dim"))
    return parts


def _status(run: ComparedRun) -> Text:
    return Text(run.status, style=STATUS_STYLES[RunStatus(run.status)])


def _machine_time(run: ComparedRun) -> str:
    times = (f"{format_duration(time)} {market}" for market, time in run.machine_time.items())
    return ", ".join(times) or NOTHING


def _value(comparison: Comparison, run: ComparedRun, name: str) -> Text:
    if name not in run.metrics:
        return Text(NOTHING, style="dim")
    text = metric_text(run.metrics[name])
    if run.run_id in comparison.best.get(name, ()):
        return Text(f"{text} {BEST}", style="bold green")
    return Text(f"{text}  ")
